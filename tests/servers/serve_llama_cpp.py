"""llama.cpp's own server, as the package `xllamacpp` ships it, on a free port of loopback.

    python serve_llama_cpp.py tiny.gguf NAME text|embeddings|rerank

Says where it listens, and runs until its standard input ends.
"""

import sys

import xllamacpp

POOLING = {
    "embeddings": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN,
    "rerank": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK,
}


def main(path, name, what):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = [name]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = 2
    params.n_ctx = 2 * 4096
    params.use_jinja = True
    params.endpoint_metrics = True
    if what in POOLING:
        params.embedding = True
        params.pooling_type = POOLING[what]
    server = xllamacpp.Server(params)
    print(f"listens at {server.listening_address}", flush=True)
    sys.stdin.read()


main(*sys.argv[1:])
