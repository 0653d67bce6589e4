# llambert-serving-gpu: the labelling half on NVIDIA GPUs, by onnxruntime-gpu (fp16) and, if asked for, torch (bf16, packed).
# Any Debian or Ubuntu with Python 3.11 or newer will do as a base; what it lacks of python3 and tini is installed.
# onnxruntime-gpu loads CUDA 13 and cuDNN 9 from the base.
ARG BASE_IMAGE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

FROM ${BASE_IMAGE} AS python
# hadolint ignore=DL3008  # the base names the distribution; its security updates are wanted
RUN command -v python3 || set -- python3; command -v tini || set -- "$@" tini; [ $# -eq 0 ] \
    || { apt-get update && apt-get install --yes --no-install-recommends ca-certificates "$@" \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*; }
RUN python3 -c 'import sys; sys.exit("python3 is older than 3.11" if sys.version_info < (3, 11) else 0)' \
    && groupadd --gid 10001 llambert \
    && useradd --uid 10001 --gid 10001 --no-log-init --home-dir /tmp --no-create-home --shell /usr/sbin/nologin llambert

FROM python AS dependencies
# hadolint ignore=DL3008  # nothing of this stage's system is in the image
RUN { command -v strip && python3 -c 'import ensurepip'; } \
    || { apt-get update && apt-get install --yes --no-install-recommends binutils python3-venv; }
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
COPY constraints.txt docker/serving.txt docker/serving-gpu.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --only-binary=:all: \
    --constraint /build/constraints.txt --requirement /build/serving-gpu.txt
# WITH_TORCH=1 adds the runtime of bf16; PyPI's torch brings a CUDA of its own (TORCH_INDEX_URL: another index)
ARG WITH_TORCH=0
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && if [ "${WITH_TORCH}" = 1 ]; then sed 's/+cpu$//' /build/constraints.txt > /build/torch.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --only-binary=:all: \
    ${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"} --constraint /build/torch.txt torch safetensors; fi
COPY docker/trim.py docker/warm.py /build/
RUN python3 /build/trim.py /opt/venv/lib/python3.*/site-packages && /opt/venv/bin/python /build/warm.py

FROM python AS code
COPY serving /app/serving
RUN python3 -m compileall -q /app

FROM python AS serving-gpu
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=code /app /app
# The root file system may be read-only: only /tmp is written to.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp BENTOML_HOME=/tmp/bentoml BENTOML_DO_NOT_TRACK=True MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /app
USER 10001:10001
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
# tini passes SIGTERM on: as process 1, Python ignores it wherever no handler is set
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "serving", "serve"]
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llambert-serving-gpu" \
      org.opencontainers.image.description="Labels texts with an exported encoder: HTTP service and bulk jobs, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
