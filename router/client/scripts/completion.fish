# llama-router's completion for fish: llama-router completion fish | source
function __llama_router_words
    set -l before (commandline -opc)
    set -l word (commandline -ct)
    set -lx _LLAMA_ROUTER_WORDS (string join -- \x1f llama-router $before[2..-1] "$word")
    set -l found (command $before[1] completion words 2>/dev/null)
    if test "$found[-1]" = \x1ffiles
        __fish_complete_path "$word"
    else if test (count $found) -gt 0
        printf '%s\n' $found
    end
end
complete -c llama-router -f -a '(__llama_router_words)'
