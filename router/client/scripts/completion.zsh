#compdef llama-router
# llama-router's completion for zsh: eval "$(llama-router completion zsh)", after compinit
_llama_router() {
    local found
    local -a typed lines
    typed=("${(@)words[1,CURRENT-1]}" "$PREFIX")
    typed[1]=llama-router
    found="$(_LLAMA_ROUTER_WORDS="${(pj:\x1f:)typed}" command ${(Q)words[1]} completion words 2>/dev/null)" || return 1
    if [[ "$found" == *$'\x1ffiles' ]]; then
        _files
        return
    fi
    lines=("${(@f)found}")
    lines=("${(@)lines:#}")
    (( ${#lines} )) && compadd -- "${(@)lines}"
}
compdef _llama_router llama-router
