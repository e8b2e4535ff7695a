# Builds the installer: installers\windows\build.ps1 [-Folder dist]
# Needs Python 3.11 or later, Visual Studio's C++ build tools, CMake and Inno Setup 6 (iscc in PATH, or where its setup puts it).
# RELEASE_PAGE, if set, is the address that `edgeembed update` of the installed program asks. Stops at the first failure.
param([string]$Folder = "dist")
Set-StrictMode -Version Latest
$ErrorActionPreference = "Stop"
# Only PowerShell 7.4 can stop at a program's exit status, so Invoke-Program does it for every version.
$PSNativeCommandUseErrorActionPreference = $false

# Runs a program with the arguments that follow it. Throws if its exit status is not 0.
function Invoke-Program {
  $program = $args[0]
  $arguments = @($args | Select-Object -Skip 1)
  & $program @arguments
  if ($LASTEXITCODE -ne 0) { throw "$program $arguments ended with status $LASTEXITCODE" }
}

$installers = Split-Path -Parent $PSScriptRoot
$source = Split-Path -Parent $installers
New-Item -ItemType Directory -Force $Folder | Out-Null
$Folder = (Resolve-Path $Folder).Path
$version = Invoke-Program python "$installers\metadata.py" version
$llama = Invoke-Program python "$installers\metadata.py" llama
# Found before the compiler runs for a quarter of an hour.
$iscc = Get-Command -Name @("iscc", "${env:ProgramFiles(x86)}\Inno Setup 6\ISCC.exe") -ErrorAction SilentlyContinue |
  Select-Object -First 1 -ExpandProperty Source
if (-not $iscc) { throw "Inno Setup 6 is not installed: choco install innosetup" }

Invoke-Program python -m venv "$Folder\venv"
$python = "$Folder\venv\Scripts\python.exe"

# As in wheel/llama.sh: one module for each generation of processors, next to the library.
$env:CMAKE_ARGS = "-DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU_ALL_VARIANTS=ON -DLLAVA_BUILD=OFF -DCMAKE_INSTALL_BINDIR=llama_cpp/lib"
Invoke-Program $python -m pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python --wheel-dir "$Folder\wheels" `
  --config-settings "wheel.exclude=lib/**;include/**;bin/**" $llama
$wheel = @(Get-ChildItem "$Folder\wheels\llama_cpp_python-*.whl")
if ($wheel.Count -ne 1) { throw "expected one wheel of llama-cpp-python in $Folder\wheels, found $($wheel.Count)" }
Invoke-Program $python -m pip install $wheel[0].FullName "$source[tray]" pyinstaller

Invoke-Program $python -m PyInstaller --noconfirm --distpath "$Folder\frozen" --workpath "$Folder\work" "$installers\frozen\edgeembed.spec"
Invoke-Program "$Folder\frozen\edgeembed\edgeembed.exe" --version
Invoke-Program $iscc "/DVersion=$version" "/DBundle=$Folder\frozen\edgeembed" "/DIcon=$Folder\work\edgeembed\icons\edgeembed.ico" "/O$Folder" `
  "$installers\windows\edgeembed.iss"
