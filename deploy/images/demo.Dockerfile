# The primary with the demo guest: its kernel, its initial RAM disk, and an
# empty disk, from which the volume that is mounted at /disk is made.
FROM understudy/primary:latest
COPY Image initrd /guest/
COPY data.img /disk/data.img
