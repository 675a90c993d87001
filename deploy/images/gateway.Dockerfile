FROM scratch
COPY gateway /gateway
USER 65532:65532
ENTRYPOINT ["/gateway"]
