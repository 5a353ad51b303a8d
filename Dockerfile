# Builds lite3r from this repository, with Docker (BuildKit, its default since version 23) or Podman: docs/scale.md
#   docker build -t lite3r .                                    for NVIDIA GPUs (docker run --gpus all) and CPUs
#   docker build -t lite3r:cpu --build-arg TORCH_INDEX=URL .    for CPUs, a quarter of the size; URL is the index of
#                                                               CPU wheels that torch's installation page names
FROM python:3.12-slim

# Another index for torch; empty: the default one, whose wheels bring CUDA
ARG TORCH_INDEX=
# Extras of pyproject.toml; "all,ray" for `lite3r batch --ray`
ARG EXTRAS=all

RUN pip install --no-cache-dir torch ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}

# tini: the first process of a container ignores signals until it handles them. Triton, which torch for GPUs brings
# along, compiles a launcher in C at its first call
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini $(python -c "import triton" 2> /dev/null && echo gcc libc6-dev) \
    && rm -rf /var/lib/apt/lists/*

# Mounted and not copied: a copy would stay in a layer
RUN --mount=type=bind,target=/src pip install --no-cache-dir "/src[${EXTRAS}]"

# No root in the container: files it writes belong to whoever runs it, with --user. Any user can write caches to HOME
RUN useradd --create-home lite3r && chmod 1777 /home/lite3r
ENV HOME=/home/lite3r
USER lite3r
WORKDIR /data
ENTRYPOINT ["tini", "--", "lite3r"]
CMD ["--help"]
