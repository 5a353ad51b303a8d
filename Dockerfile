# Builds lite3r from this repository:
#   docker build -t lite3r .                                    for NVIDIA GPUs (docker run --gpus all) and CPUs
#   docker build -t lite3r:cpu --build-arg TORCH_INDEX=URL .    for CPUs, a tenth of the size; URL is the index of
#                                                               CPU wheels that torch's installation page names
FROM python:3.12-slim

# Another index for torch; empty: the default one, whose wheels bring CUDA
ARG TORCH_INDEX=
# Extras of pyproject.toml; "all,ray" for `lite3r batch --ray`
ARG EXTRAS=all

RUN pip install --no-cache-dir torch ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}

COPY . /src
RUN pip install --no-cache-dir "/src[${EXTRAS}]" && rm -rf /src

# No root in the container: files it writes belong to whoever runs it, with --user
RUN useradd --create-home lite3r
USER lite3r
WORKDIR /data
ENTRYPOINT ["lite3r"]
CMD ["--help"]
