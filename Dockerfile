# docker build -t tts-provider .                                     Edge and espeak-ng
# docker build -t tts-provider --build-arg EXTRAS=sesame,zonos .     and the GPU engines
FROM python:3.12-slim

# espeak-ng comes from Debian, which publishes its source beside it (GPL-3.0-or-later).
RUN apt-get update \
    && apt-get install -y --no-install-recommends libespeak-ng1 espeak-ng-data \
    && rm -rf /var/lib/apt/lists/*

ARG EXTRAS=""
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY tts_provider ./tts_provider
RUN pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}" \
    && useradd --uid 10001 --create-home tts \
    && mkdir -p /app/huggingface_cache /app/edge_cache \
    && chown tts /app/huggingface_cache /app/edge_cache

ENV HF_HOME=/app/huggingface_cache \
    TTS_EDGE_CACHE_DIR=/app/edge_cache \
    TTS_HOST=0.0.0.0 \
    TTS_PORT=9000 \
    PYTHONUNBUFFERED=1
USER tts
EXPOSE 9000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import os, ssl, urllib.request as u; s = 's' * bool(os.environ.get('TTS_TLS_CERT')); u.urlopen(f'http{s}://127.0.0.1:{os.environ[\"TTS_PORT\"]}/health', timeout=4, context=ssl._create_unverified_context())"]
ENTRYPOINT ["python", "-m", "tts_provider"]
