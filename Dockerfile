# dcls-tag offline, in a small image without torch:
#   docker build -t dcls-tag .
#   docker run --rm --network none --read-only --cap-drop ALL -v "$PWD:/audio:ro" dcls-tag /audio
FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md ./
# the libraries in a layer of their own: they change less often than the code
RUN python -m venv /opt/venv && mkdir audioset_dcls preprocessing configs checkpoints \
    && echo '__version__ = "0"' > audioset_dcls/__init__.py && touch preprocessing/__init__.py \
    && /opt/venv/bin/pip install --no-cache-dir . && /opt/venv/bin/pip uninstall --yes audioset-dcls
COPY configs configs
COPY checkpoints checkpoints
COPY preprocessing preprocessing
COPY audioset_dcls audioset_dcls
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps . && /opt/venv/bin/pip uninstall --yes pip

FROM python:3.12-slim
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
WORKDIR /audio
ENTRYPOINT ["dcls-tag"]
CMD ["--help"]
