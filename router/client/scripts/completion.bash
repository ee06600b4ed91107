# llama-router's completion for bash: eval "$(llama-router completion bash)"
_llama_router() {
    local IFS=$'\x1f' line word found prefix i
    # Bash takes words apart at : and =, which names of models have: the line is read again, at blanks alone.
    local -a words=()
    local point="${COMP_LINE:0:COMP_POINT}"
    IFS=$' \t\n' read -r -a words <<< "$point"
    [[ -z "$point" || "$point" == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    words[0]=llama-router
    COMPREPLY=()
    line="${words[*]}"
    found="$(_LLAMA_ROUTER_WORDS="$line" command "${COMP_WORDS[0]}" completion words 2>/dev/null)" || return 0
    if [[ "$found" == *$'\x1ffiles' ]]; then
        compopt -o filenames 2>/dev/null
        IFS=$'\n' read -r -d '' -a COMPREPLY < <(compgen -f -- "$word")
        return 0
    fi
    # What stands before the last : or = is already a word of its own to bash.
    prefix=""
    if [[ "$word" == *[:=]* ]]; then prefix="${word%"${word##*[:=]}"}"; fi
    while IFS= read -r line; do
        [[ -n "$line" ]] && COMPREPLY+=("$(printf '%q' "${line#"$prefix"}")")
    done <<< "$found"
}
complete -F _llama_router llama-router
