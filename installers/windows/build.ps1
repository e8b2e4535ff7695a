# Builds the installer: installers\windows\build.ps1 [-Folder dist]
# Needs Python 3.11 or later, Visual Studio's C++ build tools, CMake and Inno Setup 6 (iscc in PATH).
param([string]$Folder = "dist")
$ErrorActionPreference = "Stop"
$PSNativeCommandUseErrorActionPreference = $true

$installers = Split-Path -Parent $PSScriptRoot
$source = Split-Path -Parent $installers
New-Item -ItemType Directory -Force $Folder | Out-Null
$Folder = (Resolve-Path $Folder).Path
$version = python "$installers\metadata.py" version
$llama = python "$installers\metadata.py" llama

python -m venv "$Folder\venv"
$python = "$Folder\venv\Scripts\python.exe"

# As in wheel/llama.sh: one module for each generation of processors, next to the library.
$env:CMAKE_ARGS = "-DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU_ALL_VARIANTS=ON -DLLAVA_BUILD=OFF -DCMAKE_INSTALL_BINDIR=llama_cpp/lib"
& $python -m pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python --wheel-dir "$Folder\wheels" `
  --config-settings "wheel.exclude=lib/**;include/**;bin/**" $llama
& $python -m pip install (Get-ChildItem "$Folder\wheels\llama_cpp_python-*.whl").FullName "$source[tray]" pyinstaller

& $python -m PyInstaller --noconfirm --distpath "$Folder\frozen" --workpath "$Folder\work" "$installers\frozen\edgeembed.spec"
iscc "/DVersion=$version" "/DBundle=$Folder\frozen\edgeembed" "/DIcon=$Folder\work\edgeembed\icons\edgeembed.ico" "/O$Folder" `
  "$installers\windows\edgeembed.iss"
