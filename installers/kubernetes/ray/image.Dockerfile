# edgeembed in KubeRay's image, whose Ray has to be the one that the head runs. Not built by its authors.
#
#   installers/wheel/build.sh dist && docker build -f installers/kubernetes/ray/image.Dockerfile -t edgeembed-ray dist
FROM rayproject/ray:2.60.0-py311
COPY edgeembed-*.whl /tmp/
RUN pip install --no-cache-dir "$(echo /tmp/edgeembed-*.whl)[serve,ray,redis]" "ray[serve,data]==2.60.0"
