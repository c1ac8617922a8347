# Completion of pgkeel for bash: flags, commands, files, and what the console takes behind `ctl`.
_pgkeel() {
    local word=${COMP_WORDS[COMP_CWORD]} command=
    local commands="ctl top wait healthcheck restart"
    local show="ACTIVE_SOCKETS CLIENTS CONFIG DATABASES DNS_HOSTS DNS_ZONES ENDPOINTS FDS HELP LISTENERS LISTS MEM PEERS
        PEER_POOLS POOLS PREPARED SERVERS SOCKETS STATE STATS STATS_AVERAGES STATS_TOTALS TOTALS USERS VERSION WAITING"
    local console="DISABLE ENABLE KILL KILL_CLIENT PAUSE RECONNECT RELOAD RESUME SET SHOW SHUTDOWN SUSPEND WAIT_CLOSE"
    [[ $COMP_CWORD -gt 1 && " $commands " == *" ${COMP_WORDS[1]} "* ]] && command=${COMP_WORDS[1]}
    local flags="--daemon --quiet --verbose --user= --reboot --check --print-settings= --version --help"
    case $command in
    ctl) flags="--csv --json --timeout= --file= --user= --help" ;;
    wait) flags="--timeout= --database= --user= --file= --help" ;;
    ?*) flags="--timeout= --file= --help" ;;
    esac

    compopt -o nosort 2>/dev/null
    if [[ $word == = || ${COMP_WORDS[COMP_CWORD - 1]} == = ]]; then
        word=${word#=}
        case ${COMP_WORDS[COMP_CWORD - 1]}${COMP_WORDS[COMP_CWORD - 2]} in
        *--print-settings*) COMPREPLY=($(compgen -W "table ini markdown man" -- "$word")) ;;
        *--user*) COMPREPLY=($(compgen -u -- "$word")) ;;
        *--file*) COMPREPLY=($(compgen -f -- "$word")) ;;
        esac
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
        [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
    elif [[ $command == ctl && $word == [\"\'][Ss][Hh][Oo][Ww]\ * ]]; then
        local quote=${word:0:1} typed=${word#* }
        COMPREPLY=($(compgen -W "$show" -- "${typed^^}"))
        COMPREPLY=("${COMPREPLY[@]/#/${quote}SHOW }")
        [[ ${#COMPREPLY[@]} -eq 1 ]] && COMPREPLY=("${COMPREPLY[0]}$quote")
    else
        COMPREPLY=($(compgen -f -X '!*.ini' -- "$word") $(compgen -d -S / -- "$word"))
        [[ $COMP_CWORD -eq 1 ]] && COMPREPLY+=($(compgen -W "$commands" -- "$word"))
        [[ $command == ctl ]] && COMPREPLY+=($(compgen -W "$console" -P '"' -- "${word^^}"))
        [[ ${COMPREPLY[0]-} == */ || ${COMPREPLY[0]-} == \"* ]] && compopt -o nospace 2>/dev/null
    fi
}
complete -F _pgkeel pgkeel
