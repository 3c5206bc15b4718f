# One device: no torch, no web framework, no database.
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY broker broker
COPY cloud cloud
COPY edge edge
RUN pip install --no-cache-dir --prefix=/install '.[edge]'

FROM python:3.11-slim
COPY --from=build /install /usr/local
RUN useradd --uid 1883 --create-home shoal && install -d -o shoal /var/lib/shoal
USER shoal
WORKDIR /var/lib/shoal
VOLUME /var/lib/shoal
CMD ["python", "-m", "edge", "--config", "edge.toml"]
