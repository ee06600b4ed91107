# llama-router's completion for fish: llama-router completion fish | source
function __llama_router_words
    set -l typed llama-router (commandline -opc)[2..-1] (commandline -ct)
    set -lx _LLAMA_ROUTER_WORDS (string join \x1f -- $typed)
    set -l found (command (commandline -opc)[1] completion words 2>/dev/null)
    if test (count $found) -gt 0; and test "$found[-1]" = \x1ffiles
        __fish_complete_path (commandline -ct)
        return
    end
    for each in $found
        test -n "$each"; and echo -- $each
    end
end
complete -c llama-router -f -a '(__llama_router_words)'
