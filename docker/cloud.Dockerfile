# The cloud process and the `shoal` command.
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY broker broker
COPY cloud cloud
COPY edge edge
RUN pip install --no-cache-dir --prefix=/install '.[cloud,postgres]'

FROM python:3.11-slim
COPY --from=build /install /usr/local
COPY docker/prepare.py /opt/shoal/prepare.py
# 1883 is the user of Mosquitto's own image: both may read the one password file, and nobody else may.
RUN useradd --uid 1883 --create-home shoal && install -d -o shoal /var/lib/shoal
USER shoal
WORKDIR /var/lib/shoal
VOLUME /var/lib/shoal
EXPOSE 8080
CMD ["python", "-m", "cloud", "--config", "cloud.toml"]
