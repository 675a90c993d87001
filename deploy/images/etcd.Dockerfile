FROM scratch
COPY etcd etcdctl /
COPY --chown=65532:65532 data /data
USER 65532:65532
ENV ETCD_DATA_DIR=/data/etcd
EXPOSE 2379 2380
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s CMD ["/etcdctl", "endpoint", "health"]
ENTRYPOINT ["/etcd"]
