#!/bin/sh
# Two machines of eight GPUs serve one model that fits neither: vLLM's own tensor and pipeline parallelism, over Ray.
#     HEAD=10.0.0.1 sh vllm_ray.sh node      on the second machine
#     HEAD=10.0.0.1 sh vllm_ray.sh head      on the first, whose address HEAD is
# Both need the same image: the same vLLM, the same path of the model.
set -eu
case "$1" in
node)
    exec ray start --address="$HEAD:6379" --block
    ;;
head)
    ray start --head --node-ip-address="$HEAD" --port=6379
    exec vllm serve meta-llama/Llama-3.1-405B-Instruct \
        --tensor-parallel-size 8 --pipeline-parallel-size 2 --distributed-executor-backend ray \
        --enable-prefix-caching --host 0.0.0.0 --port 8000
    ;;
esac
