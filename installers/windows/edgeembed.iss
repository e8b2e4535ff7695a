; Inno Setup 6 script: installs for one user, without an administrator. windows\build.ps1 calls it with /DVersion and /DBundle.
#ifndef Version
  #error Run build.ps1, which reads the version from pyproject.toml
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
Name: path; Description: "Add edgeembed to PATH"
; Unchecked by default. In upgrades, Inno Setup restores the earlier choice; --unless-off respects that the user may have turned
; it off since.
Name: autostart; Description: "Start at login"; Flags: unchecked

[Files]
Source: "{#Bundle}\*"; DestDir: "{app}"; Flags: recursesubdirs ignoreversion

[InstallDelete]
; Otherwise modules of an older version could be imported.
Type: filesandordirs; Name: "{app}\_internal"

[Icons]
Name: "{autoprograms}\edgeembed"; Filename: "{app}\edgeembedw.exe"; Parameters: "tray"

[Registry]
Root: HKCU; Subkey: "Environment"; ValueType: expandsz; ValueName: "Path"; ValueData: "{olddata};{app}"; Tasks: path; Check: PathLacks(ExpandConstant('{app}'))

[Run]
Filename: "{app}\edgeembed.exe"; Parameters: "autostart enable --unless-off"; Tasks: autostart; Flags: runhidden
Filename: "{app}\edgeembedw.exe"; Parameters: "tray"; Description: "Start edgeembed now"; Flags: postinstall nowait skipifsilent
; An upgrade that asks nothing, as by winget, leaves running what ran.
Filename: "{app}\edgeembedw.exe"; Parameters: "tray"; Flags: nowait skipifnotsilent; Check: RestartIcon
Filename: "{app}\edgeembed.exe"; Parameters: "start"; Flags: nowait runhidden skipifnotsilent; Check: RestartDaemon

[UninstallRun]
Filename: "{app}\edgeembed.exe"; Parameters: "autostart disable --forget"; RunOnceId: "autostart"; Flags: runhidden

[Code]
var
  DaemonRan, IconRan: Boolean;

function RestartIcon: Boolean;
begin
  Result := IconRan;
end;

function RestartDaemon: Boolean;
begin
  Result := DaemonRan and not IconRan;
end;

{ Returns the exit status of a command of the installed edgeembed; -1 if it cannot be started. }
function Ask(Command: string): Integer;
begin
  if not Exec(ExpandConstant('{app}\edgeembed.exe'), Command, '', SW_HIDE, ewWaitUntilTerminated, Result) then
    Result := -1;
end;

{ Ends the daemon and the icon of the installed version, whose files could not be replaced or removed otherwise. `edgeembed stop` lets
  the daemon finish its requests (POST /v1/admin/shutdown). Early versions lack that command, and the icon and whatever does not end in
  time need taskkill. Other users' programs are not ended: that would take an administrator. }
procedure StopRunning;
var
  Status: Integer;
begin
  if not FileExists(ExpandConstant('{app}\edgeembed.exe')) then
    exit;
  DaemonRan := Ask('status') = 0;
  if Ask('stop') <> 0 then
    Log('edgeembed stop did not succeed, so the daemon is ended without finishing its requests');
  IconRan := Exec(ExpandConstant('{sys}\taskkill.exe'), '/F /IM edgeembedw.exe', '', SW_HIDE, ewWaitUntilTerminated, Status) and (Status = 0);
  Exec(ExpandConstant('{sys}\taskkill.exe'), '/F /IM edgeembed.exe', '', SW_HIDE, ewWaitUntilTerminated, Status);
end;

function PrepareToInstall(var NeedsRestart: Boolean): string;
begin
  StopRunning;
  Result := '';
end;

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
  if Step = usUninstall then
    StopRunning;
  if Step <> usPostUninstall then
    exit;
  RemoveFromPath(ExpandConstant('{app}'));
  Data := ExpandConstant('{localappdata}\edgeembed');
  if not DirExists(Data) then
    exit;
  { A silent uninstall keeps everything: removing models and cache needs the consent of the user. }
  if UninstallSilent then
    Log('Keeping models, cache and settings in ' + Data)
  else if MsgBox('Models, cache and settings are in ' + Data + '.' + #13#10 + 'Remove them as well?', mbConfirmation,
                 MB_YESNO or MB_DEFBUTTON2) = IDYES then
    DelTree(Data, True, True, True);
end;
