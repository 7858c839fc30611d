# docker build -t embedsvc .                   CPU: ONNX Runtime and the exported model, neither torch nor compilers
# docker build -t embedsvc:gpu --target gpu .  torch and FAISS on CUDA; the host has the NVIDIA container toolkit
# docker run --read-only --tmpfs /tmp -v embedsvc:/data -p 8080:8080 embedsvc

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    EMBEDSVC_DATA_DIR=/data \
    EMBEDSVC_HOST=0.0.0.0 \
    EMBEDSVC_PORT=8080
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin embedsvc \
    && install -d -o embedsvc -g embedsvc /data
WORKDIR /data
VOLUME /data
EXPOSE 8080
# The service has read its model and answers with it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/opt/embedsvc/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"EMBEDSVC_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["/opt/embedsvc/bin/embedsvc"]
CMD ["serve"]

FROM python:3.11-slim AS source
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY embedsvc embedsvc
COPY container container

FROM source AS build
RUN container/build /opt/embedsvc

FROM source AS build-gpu
RUN python -m venv /opt/embedsvc \
    && /opt/embedsvc/bin/pip install --no-cache-dir -c constraints.txt '.[gpu]'

FROM base AS gpu
ENV EMBEDSVC_CACHE_DIR=/data/.cache
COPY --from=build-gpu /opt/embedsvc /opt/embedsvc
USER 10001

FROM base AS cpu
ENV EMBEDSVC_CACHE_DIR=/opt/embedsvc/models \
    EMBEDSVC_RUNTIME=onnx
COPY --from=build /opt/embedsvc /opt/embedsvc
USER 10001
