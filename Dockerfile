# The page as a Docker Space, or anywhere else:
#   docker build -t nice_demo . && docker run -p 7860:7860 nice_demo
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 user
USER user
RUN mkdir /home/user/app
WORKDIR /home/user/app

ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NICE_LOG=json

# PyTorch's own index has the build without CUDA, a tenth of the size. The requirements come
# first: their layer is kept when only the code changes.
COPY --chown=user requirements.txt .
RUN pip install --user --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -r requirements.txt

COPY --chown=user . .

EXPOSE 7860
HEALTHCHECK --start-period=60s --interval=30s --timeout=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health', timeout=9)"]
CMD ["python", "app.py"]
