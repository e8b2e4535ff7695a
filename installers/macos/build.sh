#!/usr/bin/env bash
# Builds edgeembed.app and a disk image of it: installers/macos/build.sh FOLDER
#
# Needs Xcode's command line tools and Python 3.11 or later. Signing and notarising need an Apple developer
# account, see macos/README.md.
set -euo pipefail

installers=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source_tree=$(dirname "$installers")
folder=${1:?"usage: $0 FOLDER"}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
version=$(python3 "$installers/metadata.py" version)

python3 -m venv "$folder/venv"
python=$folder/venv/bin/python
# All supported Macs have Metal; the CPU kernels are those of the oldest processor of the architecture.
export CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_METAL_EMBED_LIBRARY=ON -DLLAVA_BUILD=OFF"
"$python" -m pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python --wheel-dir "$folder/wheels" \
  "$("$python" "$installers/metadata.py" llama)"
"$python" -m pip install "$folder"/wheels/llama_cpp_python-*.whl "${source_tree}[tray]" pyinstaller

"$python" -m PyInstaller --noconfirm --distpath "$folder/frozen" --workpath "$folder/work" "$installers/frozen/edgeembed.spec"
app=$folder/frozen/edgeembed.app
"$app/Contents/MacOS/edgeembed" --version
# A background-only app would show no icon.
[ "$(plutil -extract LSBackgroundOnly raw "$app/Contents/Info.plist")" = false ]
# Apple's processors require at least an ad-hoc signature, which is valid on this machine only.
codesign --force --deep --sign "${SIGN_AS:--}" ${SIGN_AS:+--options runtime --timestamp} "$app"
codesign --verify --deep --strict "$app"
# The image holds the app and, for people to drag it to, the folder of applications.
rm -rf "$folder/image"
mkdir "$folder/image"
cp -R "$app" "$folder/image"
ln -s /Applications "$folder/image/Applications"
hdiutil create -volname edgeembed -srcfolder "$folder/image" -ov -format UDZO "$folder/edgeembed-$version-macos-$(uname -m).dmg"
