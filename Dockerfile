# Untested: written by the documentation of Docker, and never built. Please open an issue if it does not build.
#
#   docker build -t privfl .
#   docker run --rm -v "$PWD/runs:/privfl/runs" privfl                     the quickstart
#   docker run --rm -v "$PWD/runs:/privfl/runs" privfl .venv/bin/privfl --help
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /privfl
COPY . .
# The CPU build of PyTorch; for a GPU leave the index out, and begin with an image that has CUDA.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN make .venv/.installed

CMD ["make", "quickstart"]
