# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What all scripts here share; a bash script sources it.

top=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd -P)
# The name of the running script, with the folder if that is scripts/series or scripts/build. It is
# part of what repeats a failure: it must not depend on where the caller is.
me=$(cd "${BASH_SOURCE[-1]%/*}" && pwd -P)/${0##*/}
me=${me#"$top"/scripts/}
[[ $me == @(build|series)/* ]] || me=${me##*/}
# The series: patches/$series, and the kernels below build/$series
# shellcheck disable=SC2034 # for the script that sources this
series=${SERIES:-6.12}
# The one with repairs of mainline; the kernels mainline and repaired are its base, and that with it
# shellcheck disable=SC2034 # for the script that sources this
mainline=7.3

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "$me" "$*" >&2; }
die() { warn "$@"; exit "${die_status:-1}"; }

# need_host COMMAND=PACKAGE...: installs what the host lacks, or says what root has to install.
need_host() {
	local want=() p log=$top/build/log/host-packages.log
	for p; do
		command -v "${p%%=*}" >/dev/null || want+=("${p#*=}")
	done
	[ ${#want[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] ||
		die "missing on this host, to be installed by root: apt-get install ${want[*]}"
	say "$me: installing ${want[*]}"
	mkdir -p "${log%/*}"
	{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install \
		-y --no-install-recommends "${want[@]}"; } \
		>"$log" 2>&1 || die "apt-get failed, see $log; again: apt-get install ${want[*]}"
}

# is_slow KERNEL: whether it has lockdep, with which an exit takes many times as many instructions
is_slow() { grep -qsx CONFIG_PROVE_LOCKING=y "$top/tools/testing/bochs/$1.config"; }
# mhz KERNEL: its --mhz for the machine. With 40, a slow kernel leaves its guests little time
# between two ticks.
mhz() { if is_slow "$1"; then say 400; else say 40; fi; }

# lock NAME: waits until no other script holds NAME, and holds it until this one ends.
lock() {
	local fd
	mkdir -p "$top/build/lock"
	exec {fd}>>"$top/build/lock/$1"
	flock --nonblock "$fd" || { say "$me: waiting for another script that uses $1" >&2; flock \
		"$fd"; }
}

# made_from STAMP KEY: whether KEY is what "made STAMP KEY" has written last. If not, STAMP is
# removed.
made_from() { [ "$(cat "$1" 2>/dev/null)" = "$2" ] || { rm -f "$1" && false; }; }
made() { printf '%s\n' "$2" >"$1"; }

# For scripts that source series.sh. need_series: applies the series, and does what need_base does.
# own_kernel NAME: puts the series into $dir/linux, for kernel_make, and sets $log and $again.
need_series() { "$top/scripts/series/apply" >&2 && need_base; }
# shellcheck disable=SC2034 # for the script that sources this
own_kernel() {
	need_series
	lock "$1"
	dir=$top/build/$1
	log=$top/build/log/$1.log
	again="scripts/check $1"
	checkout "${tip:?}" "$dir/linux"
	mkdir -p "$dir/obj" "${log%/*}"
	: >"$log"
}

# scratch: sets $tmp to a new folder below build/ that is removed when this script ends.
scratch() {
	mkdir -p "$top/build"
	tmp=$(mktemp -d "$top/build/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
}

# declared SCRIPT FIELD: the values of all lines "# FIELD: VALUE..." in its head
declared() {
	local line values=()
	while IFS= read -r line && [[ $line == \#* ]]; do
		[[ $line != "# $2: "* ]] || values+=("${line#*: }")
	done <"$1"
	say "${values[*]}"
}

# ktap LINE: whether this is the result of a test. Sets $verdict to ok, "not ok" or skip, $name, and
# $remark to what follows " # ".
# shellcheck disable=SC2034 # for the script that sources this
ktap() {
	[[ $1 =~ ^((not )?ok)\ [0-9]+\ ([^ ].*) ]] || return
	verdict=${BASH_REMATCH[1]}
	name=${BASH_REMATCH[3]%% # *}
	remark=${BASH_REMATCH[3]#"$name"}
	remark=${remark# # }
	[[ $remark != SKIP* ]] || verdict=skip
}

# all_match NAMES TEXT PATTERNS TEXT: whether each of the array NAMES matches one of PATTERNS, and
# each of these one of NAMES. Prints what does not, after the TEXT that follows its array.
# shellcheck disable=SC2053 # patterns
all_match() {
	local -n _names=$1 _patterns=$3
	local name pattern failed=0
	for name in "${_names[@]}"; do
		for pattern in "${_patterns[@]}"; do [[ $name != $pattern ]] || continue 2; done
		echo "$2 $name" && failed=1
	done
	for pattern in "${_patterns[@]}"; do
		for name in "${_names[@]}"; do [[ $name != $pattern ]] || continue 2; done
		echo "$4 $pattern" && failed=1
	done
	return "$failed"
}

# Tests report in KTAP. result NAME COMMAND... runs one test, whose output goes to stderr. What comes
# before the first one, or before results_begin, is preparation. result_once KEY NAME COMMAND... is
# for a test that takes long: it isn't run again once it has passed with KEY. results_end ends the
# script. With CHECK_ONLY, a pattern, tests of other names neither run nor count.
results=0
failures=0
begun=''
results_begin() { [ "$begun" ] || say 'KTAP version 1'; begun=y; }
result() {
	local name=$1
	verdict=''
	# shellcheck disable=SC2053 # a pattern
	[[ $name == ${CHECK_ONLY:-*} ]] || return 0
	verdict=ok
	shift
	results_begin
	"$@" >&2 || {
		verdict='not ok'
		failures=$((failures + 1))
	}
	results=$((results + 1))
	say "$verdict $results $name"
}
result_once() {
	local stamp=$top/build/passed/$me/${2//\//-}
	if made_from "$stamp" "$1"; then
		result "$2" echo 'passed before'
	else
		result "${@:2}"
		[ "$verdict" != ok ] || { mkdir -p "${stamp%/*}" && made "$stamp" "$1"; }
	fi
}
# in_machine OPTION... -- COMMAND...: runs it there, and leaves its output in $tmp/out. says REGEX
# looks for a line there. passes is in_machine, and fails if a test is skipped.
in_machine() {
	local status=0
	"$top/tools/testing/bochs/run" "$@" </dev/null >"$tmp/out" 2>&1 || status=$?
	cat "$tmp/out"
	return "$status"
}
passes() { in_machine "$@" && ! grep '# SKIP' "$tmp/out"; }
says() { grep -qE -- "$1" "$tmp/out" || { echo "not said: $1" && return 1; }; }
results_end() {
	say "1..$results"
	[ "$failures" = 0 ] && [ "$results" != 0 ]
	exit
}
