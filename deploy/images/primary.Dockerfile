# Root without a capability but NET_ADMIN is enough, and is needed for TAP
# devices: run it with --cap-drop ALL --cap-add NET_ADMIN --device /dev/net/tun.
FROM scratch
COPY primary /primary
COPY disk /disk
EXPOSE 7410
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s CMD ["/primary", "--check"]
ENTRYPOINT ["/primary"]
