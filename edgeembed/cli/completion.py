"""`edgeembed completion`, and the completion of model names.

Completion has to be instant, so nothing here opens the store, imports llama.cpp's tools or uses the network.
"""

from __future__ import annotations

import os
from collections.abc import Container

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

_PROGRAM = "edgeembed"
_VARIABLE = "_EDGEEMBED_COMPLETE"
"""The variable by which click recognises a completion request at start-up."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish", "powershell"]))
def completion(shell: str) -> None:
    """Print a script that lets your shell complete commands, options, models and their types, settings and files.

    \b
    bash 4.4 or later, where the package bash-completion is installed:
      mkdir -p ~/.local/share/bash-completion/completions
      edgeembed completion bash > ~/.local/share/bash-completion/completions/edgeembed
    \b
    bash without it, in ~/.bashrc:
      eval "$(edgeembed completion bash)"
    \b
    zsh:
      mkdir -p ~/.zfunc && edgeembed completion zsh > ~/.zfunc/_edgeembed
    and in ~/.zshrc:
      fpath=(~/.zfunc $fpath)
      autoload -Uz compinit && compinit
    \b
    fish:
      mkdir -p ~/.config/fish/completions
      edgeembed completion fish > ~/.config/fish/completions/edgeembed.fish

    \b
    PowerShell, in the file that $PROFILE names (not run on Windows by us):
      edgeembed completion powershell | Out-String | Invoke-Expression

    It takes effect in new shells. Print the script again after upgrading edgeembed.
    """
    script = _SHELLS[shell](click.get_current_context().find_root().command, {}, _PROGRAM, _VARIABLE).source()
    click.echo(script.encode(), nl=False)  # as bytes: Windows would write line ends that shells do not read


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the models of the catalogue and installed ones, or files if no model matches."""
    if incomplete.startswith("hf:"):
        return []
    from edgeembed.hub.catalogue import catalogue
    from edgeembed.hub.offered import offered_types

    installed = _installed()
    types = installed | {
        name: list(dict.fromkeys([*installed.get(name, []), *offered_types(entry)])) for name, entry in catalogue().items()
    }
    return _offer(incomplete, types, installed) or [CompletionItem(incomplete, type="file")]


def complete_file(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer files and folders."""
    return [CompletionItem(incomplete, type="file")]


def complete_type(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the types in which models can be had."""
    from edgeembed.hub.offered import CONVERTED_TYPES

    return [CompletionItem(each) for each in CONVERTED_TYPES if each.startswith(incomplete.upper())]


def complete_installed(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the installed models that the command line does not already name."""
    installed = _installed()
    given = context.params.get(parameter.name or "") or ()
    return [item for item in _offer(incomplete, installed, ()) if item.value not in given]


def complete_setting(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of settings, and `aliases.` and the like, behind which a new name may follow."""
    from edgeembed.config.values import field_names, is_table

    names = [item for name in field_names() for item in ((name, f"{name}.") if is_table(name) else (name,))]
    return [CompletionItem(name) for name in names if name.startswith(incomplete.replace("-", "_"))]


def complete_entry(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of settings, and the entries of tables in config.toml."""
    from edgeembed.config.file import read_config
    from edgeembed.config.paths import Paths
    from edgeembed.config.values import is_table
    from edgeembed.errors import ConfigError

    try:
        found = read_config(Paths.resolve().config_file)
    except ConfigError:
        found = {}
    tables = [(name, table) for name, table in found.items() if is_table(name) and isinstance(table, dict)]
    entries = [f"{name}.{entry}" for name, table in tables for entry in table]
    offered = [item.value for item in complete_setting(context, parameter, incomplete) if not item.value.endswith(".")]
    return [CompletionItem(name) for name in (*offered, *(each for each in entries if each.startswith(incomplete)))]


def complete_value(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the values of the setting that the command line names: the few that it may have, models or files."""
    import msgspec

    from edgeembed.config.secrets import kind_of
    from edgeembed.config.settings import Settings
    from edgeembed.config.values import choices

    name, _, entry = str(context.params.get("key") or "").replace("-", "_").partition(".")
    if found := choices(name):
        return [CompletionItem(each) for each in found if each.startswith(incomplete)]
    if name in ("model", "preload", "pin") or (name == "aliases" and entry):
        return complete_model(context, parameter, incomplete)
    if any(field.name == name and kind_of(field) == "file" for field in msgspec.structs.fields(Settings)):
        return complete_file(context, parameter, incomplete)
    return []


def _installed() -> dict[str, list[str]]:
    """Return the types of each installed model, by the names of files and folders."""
    from edgeembed.common.files import matching
    from edgeembed.config.paths import Paths

    found: dict[str, list[str]] = {}
    for path in matching(Paths.resolve().models, "*/*.gguf"):
        name = path.parent.name
        if not name.startswith(".") and path.stem.startswith(f"{name}-"):
            found.setdefault(name, []).append(path.stem.removeprefix(f"{name}-"))
    return found


def _offer(incomplete: str, types: dict[str, list[str]], installed: Container[str]) -> list[CompletionItem]:
    """Offer matching names, and types only once the name is unambiguous: a dozen of each would hide the names."""
    name, colon, kind = incomplete.partition(":")
    if colon:
        kinds = types.get(name.lower(), ())
        return [CompletionItem(f"{name.lower()}:{each}") for each in kinds if each.startswith(kind.upper())]
    names = sorted(each for each in types if each.startswith(name.lower()))
    found = [CompletionItem(each, help="installed" if each in installed else None) for each in names]
    if names and (len(names) == 1 or names[0] == name.lower()):
        found += [CompletionItem(f"{names[0]}:{each}") for each in types[names[0]]]
    return found


# --- scripts ----------------------------------------------------------------------------------------------------------

# click's own script for bash drops what precedes a colon or an equals sign, because bash splits words there: NAME:TYPE and
# --model=NAME arrive in pieces. This one joins pieces without a blank in between, and removes from each answer the part that
# bash considers an earlier word.
_BASH = r"""
%(complete_func)s() {
    local rest=$COMP_LINE piece word option='' cut='' type value
    local -a words=()
    local -i at
    for ((at = 0; at <= COMP_CWORD; at++)); do
        piece=${COMP_WORDS[at]}
        if ((at == 0)) || [[ $rest == [[:blank:]]* ]]; then
            words+=("$piece")
        else
            words[-1]+=$piece
        fi
        rest=${rest#*"$piece"}
    done
    word=${words[-1]}
    if [[ $word == --*=* ]]; then
        [[ $COMP_WORDBREAKS == *=* ]] || option=${word%%%%=*}=
        word=${word#*=}
    fi
    if [[ $word == *:* && $word != [\"\']* && $COMP_WORDBREAKS == *:* ]]; then
        cut=${word%%"${word##*:}"}
        option=''
    fi
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$option${value#"$cut"}") ;;
        esac
    done < <(env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

# click's own script for zsh replaces all of --model=NAME by the answer.
_ZSH = r"""#compdef %(prog_name)s
%(complete_func)s() {
    (( $+commands[%(prog_name)s] )) || return 1
    local type value help
    local -a plain described
    compset -P '--*='
    for type value help in "${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) \
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}"; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain)
                if [[ $help == _ ]]; then
                    plain+=("$value")
                else
                    described+=("$value:$help")
                fi ;;
        esac
    done
    # Types are in capitals, but match when typed in lower case.
    (( $#described )) && _describe -V described described -M 'm:{a-z}={A-Z}'
    (( $#plain )) && compadd -V plain -M 'm:{a-z}={A-Z}' -a plain
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


# click's own script for fish answers --model=NAME without the option, which fish does not consider a match.
_FISH = r"""
function %(complete_func)s
    set -l token (commandline -t)
    set -l option (string match -r -- '^--[^=]+=' $token; or echo '')
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD $token
    set -lx %(complete_var)s fish_complete
    for line in (%(prog_name)s 2>/dev/null)
        set -l parts (string split -m 1 , -- $line)
        switch $parts[1]
            case dir
                printf '%%s\n' $option(__fish_complete_directories $parts[2])
            case file
                printf '%%s\n' $option(__fish_complete_path $parts[2])
            case plain
                printf '%%s\n' $option$parts[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


# click has none for PowerShell. The words come one to a line, as they may hold blanks; a line of the answer is type, value
# and help with tabs between. Written after Microsoft's pages on Register-ArgumentCompleter; not run in
# PowerShell.
_POWERSHELL = r"""Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($word, $ast, $position)
    $words = @($ast.CommandElements | Where-Object { $_.Extent.EndOffset -lt $position } | ForEach-Object {
        if ($_ -is [System.Management.Automation.Language.StringConstantExpressionAst]) { $_.Value } else { $_.Extent.Text }
    })
    $option = ''
    $rest = "$word"
    if ($rest -match '^(--[^=]+=)(.*)$') {
        $option = $Matches[1]
        $rest = $Matches[2]
    }
    $env:COMP_WORDS = $words -join "`n"
    $env:COMP_CWORD = "$word"
    $env:%(complete_var)s = 'powershell_complete'
    try {
        & %(prog_name)s 2>$null | ForEach-Object {
            $type, $value, $help = $_ -split "`t", 3
            if ($type -eq 'plain') {
                if (-not $help) { $help = $value }
                [System.Management.Automation.CompletionResult]::new("$option$value", $value, 'ParameterValue', $help)
            } else {
                [System.Management.Automation.CompletionCompleters]::CompleteFilename($rest) | ForEach-Object {
                    $text = "$option$($_.CompletionText)"
                    [System.Management.Automation.CompletionResult]::new($text, $_.ListItemText, $_.ResultType, $_.ToolTip)
                }
            }
        }
    } finally {
        Remove-Item Env:COMP_WORDS, Env:COMP_CWORD, Env:%(complete_var)s -ErrorAction SilentlyContinue
    }
}
"""


class _PowerShell(ShellComplete):
    name = "powershell"
    source_template = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and that one."""
        return os.environ["COMP_WORDS"].split("\n")[1:], os.environ.get("COMP_CWORD", "")

    def format_completion(self, item: CompletionItem) -> str:
        """Return the line for an answer."""
        return f"{item.type}\t{item.value}\t{item.help or ''}"


class _Bash(BashComplete):
    source_template = _BASH


class _Zsh(ZshComplete):
    source_template = _ZSH


class _Fish(FishComplete):
    source_template = _FISH


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish, "powershell": _PowerShell}
add_completion_class(_PowerShell)
