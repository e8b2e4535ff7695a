; Inno Setup 6 script: installs for one user, without an administrator. windows\build.ps1 calls it with /DVersion and /DBundle.
#ifndef Version
  #error Call build.ps1: it takes the version from pyproject.toml
#endif

[Setup]
AppId=edgeembed
AppName=edgeembed
AppVersion={#Version}
AppPublisher=The edgeembed developers
DefaultDirName={autopf}\edgeembed
PrivilegesRequired=lowest
PrivilegesRequiredOverridesAllowed=dialog
DisableProgramGroupPage=yes
ChangesEnvironment=yes
ArchitecturesAllowed=x64compatible
ArchitecturesInstallIn64BitMode=x64compatible
LicenseFile={#SourcePath}\..\..\LICENSE
SetupIconFile={#Icon}
UninstallDisplayIcon={app}\edgeembed.exe
OutputBaseFilename=edgeembed-{#Version}-windows-x64
Compression=lzma2
SolidCompression=yes
CloseApplications=yes

[Tasks]
Name: path; Description: "Let terminals find the command edgeembed"
; Not ticked: a program that starts by itself is the user's own choice. Inno Setup ticks it again in an upgrade, where it was
; ticked before; a user who has switched it off since stays heard by --unless-off.
Name: autostart; Description: "Start at login"; Flags: unchecked

[Files]
Source: "{#Bundle}\*"; DestDir: "{app}"; Flags: recursesubdirs ignoreversion

[InstallDelete]
; Modules of an older version would be imported beside the new ones.
Type: filesandordirs; Name: "{app}\_internal"

[Icons]
Name: "{autoprograms}\edgeembed"; Filename: "{app}\edgeembedw.exe"; Parameters: "tray"

[Registry]
Root: HKCU; Subkey: "Environment"; ValueType: expandsz; ValueName: "Path"; ValueData: "{olddata};{app}"; Tasks: path; Check: PathLacks(ExpandConstant('{app}'))

[Run]
Filename: "{app}\edgeembed.exe"; Parameters: "autostart enable --unless-off"; Tasks: autostart; Flags: runhidden
Filename: "{app}\edgeembedw.exe"; Parameters: "tray"; Description: "Start edgeembed now"; Flags: postinstall nowait skipifsilent

[UninstallRun]
Filename: "{app}\edgeembed.exe"; Parameters: "autostart disable --forget"; RunOnceId: "autostart"; Flags: runhidden

[Code]
function PathLacks(Folder: string): Boolean;
var
  Path: string;
begin
  if not RegQueryStringValue(HKEY_CURRENT_USER, 'Environment', 'Path', Path) then
    Path := '';
  Result := Pos(';' + Lowercase(Folder) + ';', ';' + Lowercase(Path) + ';') = 0;
end;

procedure RemoveFromPath(Folder: string);
var
  Path: string;
begin
  if RegQueryStringValue(HKEY_CURRENT_USER, 'Environment', 'Path', Path) then
  begin
    Path := ';' + Path + ';';
    if StringChangeEx(Path, ';' + Folder + ';', ';', False) > 0 then
      RegWriteExpandStringValue(HKEY_CURRENT_USER, 'Environment', 'Path', Copy(Path, 2, Length(Path) - 2));
  end;
end;

procedure CurUninstallStepChanged(Step: TUninstallStep);
var
  Data: string;
begin
  if Step <> usPostUninstall then
    exit;
  RemoveFromPath(ExpandConstant('{app}'));
  Data := ExpandConstant('{localappdata}\edgeembed');
  if not DirExists(Data) then
    exit;
  { A silent removal keeps everything: only a person can decide that models and cache go. }
  if UninstallSilent then
    Log('Models, cache and settings stay in ' + Data)
  else if MsgBox('Models, cache and settings are in ' + Data + '.' + #13#10 + 'Remove them, too?', mbConfirmation,
                 MB_YESNO or MB_DEFBUTTON2) = IDYES then
    DelTree(Data, True, True, True);
end;
