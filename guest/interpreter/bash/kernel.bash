# Bash as a runtime of the code interpreter (coppice_bridge/runtime.py): the start-up file of an interactive shell without a
# terminal. Interactive, since only such a shell goes back to its reader when it is interrupted or an expansion fails, and
# keeps its state. It reads its requests as commands; user code has /dev/null as stdin and none of our files.
PS1= PS2= PROMPT_COMMAND=
__coppice_begun= __coppice_code= __coppice_changed= __coppice_before=() __coppice_ended=
unset HISTFILE MAILCHECK
set +o history +o histexpand
# Below 10: bash hides what it puts aside of these from the programs it starts, and not of others. 3 to 6 are left to user code.
exec <&3 3<&- 8>&4 4>&- 7<&5 5<&- 6<&-

# An interrupt may hit any of these lines, so that nothing may depend on one having run: what has not begun runs nothing,
# variables are given back from before the first of them is set, and the end is asked for again with each interrupt. One that
# hits the reader leaves the rest of a line, which is read as a line of its own: begin, code and end of a run are one line, so
# that an end that finds its run begun has seen the code through, or is the first whole line after it was left.
__coppice_begin() {
  local __coppice_pair __coppice_name
  mapfile -d '' -t __coppice_request </dev/fd/7
  # The number of variables, the variables, the code.
  __coppice_code=${__coppice_request[-1]}
  __coppice_request=("${__coppice_request[@]:1:__coppice_request[0]}")
  __coppice_before=()
  for __coppice_pair in "${__coppice_request[@]}"; do
    __coppice_name=${__coppice_pair%%=*}
    if ! __coppice_is_name "$__coppice_name"; then
      continue
    elif [[ -v $__coppice_name ]]; then
      __coppice_before+=("$__coppice_name=${!__coppice_name}")
    else
      __coppice_before+=("$__coppice_name")
    fi
  done
  __coppice_changed=$1
  __coppice_assign "${__coppice_request[@]}"
  __coppice_begun=$1
}

# At the top level and not in a function, where `declare` would be local; the function is for those who remove every alias.
alias __coppice_eval='eval "${__coppice_begun:+$__coppice_code}" </dev/null 8>&- 7<&-'
\__coppice_eval() { eval "${__coppice_begun:+$__coppice_code}" </dev/null 8>&- 7<&-; }

# end RUN [STATUS]: with the exit status of what came before it, if none is given.
__coppice_end() {
  local __coppice_status=${2-$?}
  if [[ $__coppice_ended != "$1" ]]; then
    if [[ $__coppice_changed == "$1" ]]; then
      __coppice_assign "${__coppice_before[@]}"
    fi
    # 128 + SIGINT: it was interrupted before its code was reached.
    if [[ $__coppice_begun != "$1" ]]; then
      __coppice_status=130
    fi
    if ((__coppice_status != 0)); then
      printf '{"type":"error","name":"ExitCode","value":"%d","traceback":"ExitCode: %d"}\n' \
        "$__coppice_status" "$__coppice_status" >&8
    fi
    __coppice_ended=$1
  fi
  __coppice_begun= __coppice_code= __coppice_changed= __coppice_before=()
  printf '{"type":"done","run":"%s"}\n' "$1" >&8
}

__coppice_env() {
  mapfile -d '' -t __coppice_request </dev/fd/7
  __coppice_assign "${__coppice_request[@]}"
  printf '{"type":"done"}\n' >&8
}

# SRANDOM asks the kernel. RANDOM has a state of its own; that user code has set it cannot be told, so it never stays.
__coppice_reseed() {
  mapfile -d '' -t __coppice_request </dev/fd/7
  RANDOM=$((16#${__coppice_request[1]:0:8}))
  printf '{"type":"done"}\n' >&8
}

# NAME=value, or NAME to unset it. What is no name in bash is left out.
__coppice_assign() {
  local __coppice_change
  for __coppice_change in "$@"; do
    if ! __coppice_is_name "${__coppice_change%%=*}"; then
      continue
    elif [[ $__coppice_change == *=* ]]; then
      export "$__coppice_change"
    else
      unset -v "$__coppice_change"
    fi
  done
}

__coppice_is_name() {
  [[ $1 =~ ^[a-zA-Z_][a-zA-Z0-9_]*$ ]]
}

# What `set -x` says of our own lines is not told, and no line has a quote that a cut one would leave open.
printf '%s\n' '{"type":"ready","lines":{
  "run":"{ __coppice_begin {run}; } 2>/dev/null; __coppice_eval; { __coppice_end {run}; } 2>/dev/null\n{ __coppice_end {run}; } 2>/dev/null",
  "interrupt":"\n{ __coppice_end {run} 130; } 2>/dev/null",
  "env":"{ __coppice_env; } 2>/dev/null",
  "reseed":"{ __coppice_reseed; } 2>/dev/null"}}' | tr -d '\n' >&8
echo >&8
