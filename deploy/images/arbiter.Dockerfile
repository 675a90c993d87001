FROM scratch
COPY arbiter understudyctl /
# A volume that is mounted here is made with these rights.
COPY --chown=65532:65532 data /data
USER 65532:65532
ENV UNDERSTUDY_ARBITER_LISTEN=0.0.0.0:7400 UNDERSTUDY_ARBITER_HTTP=0.0.0.0:7480
EXPOSE 7400 7480
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s CMD ["/arbiter", "--check"]
ENTRYPOINT ["/arbiter"]
