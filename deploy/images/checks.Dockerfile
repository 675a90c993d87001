FROM scratch
COPY checks /checks
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=4s --start-period=5s CMD ["/checks", "--check"]
ENTRYPOINT ["/checks"]
