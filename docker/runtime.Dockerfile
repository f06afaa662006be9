# What predicts and serves with a bundle of `fewshot export --onnx`, without torch. From the project's folder:
#   docker build -f docker/runtime.Dockerfile -t fewshot-runtime .
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY fewshot ./fewshot
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# hadolint ignore=DL3013
RUN pip install --no-cache-dir onnxruntime numpy pillow click filelock lazy_loader tqdm \
        fastapi starlette uvicorn python-multipart prometheus-client cachetools
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl

RUN useradd --uid 10001 --no-create-home --home-dir /data fewshot && install --directory --mode 1777 /data
ENV PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
ENTRYPOINT ["fewshot"]
CMD ["--help"]
