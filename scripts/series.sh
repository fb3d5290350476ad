# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Shared by the scripts that read or write patches/, or build the series. A bash script sources it
# instead of lib.sh.

# shellcheck source=scripts/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
# The kernels of build/kernel. Each finds most of what it compiles in the cache, but for the first of
# each series.
# shellcheck disable=SC2034 # for the script that sources this
kernel_names=(patched base no-nested debug kasan rt coverage mainline repaired)
# kernel_dir NAME: where it is built
kernel_dir() {
	case $1 in
	mainline) say "$top/build/$mainline/base" ;;
	repaired) say "$top/build/$mainline/patched" ;;
	*) say "$top/build/$series/$1" ;;
	esac
}
linux_git=$top/build/linux.git
# The reader's own git configuration must not change a diff or a commit.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
# Nor must options of a make that started this reach the kernel's make.
unset MAKEFLAGS MAKEOVERRIDES MFLAGS MAKELEVEL
lgit() { GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git --git-dir="$linux_git" "$@"; }

# bare_git DIRECTORY: makes a repository for worktrees. Only the repository itself is configured as
# bare: otherwise the kernel's spdxcheck.py takes a worktree for bare, too.
bare_git() {
	git init -q --bare "$1"
	git --git-dir="$1" config extensions.worktreeConfig true
	git --git-dir="$1" config --worktree core.bare true
	git --git-dir="$1" config --unset core.bare
	git --git-dir="$1" config gc.auto 0
}

# base_of VERSION: the commit of that source. Versions of backports have a "~", which no reference
# may have.
base_of() { say "refs/heads/base-${1//\~/-}"; }

# need_base: sets $version to the Debian version that BASE_VERSION chooses, and puts its source into
# build/linux.git.
# shellcheck disable=SC2034 # for the script that sources this
need_base() {
	version=$("$top/scripts/build/source")
	base=$(base_of "$version")
	tip=${base/base-/series-}
}

# series_names TOP: the patches of TOP in their order.
series_names() { sed '/^#/d;/^[[:space:]]*$/d' "$1/patches/$series/series"; }

# series_nested TOP: the patches for nested guests, which can be left out. series_lab TOP: those
# after them, which aren't mailed with the series.
series_nested() { series_section "$1" 'CET for nested guests'; }
series_lab() { series_section "$1" Laboratory; }
# series_section TOP HEADING: the patches below the heading that begins so
series_section() { awk -v heading="# $2" '/^#/ { on = index($0, heading) == 1 } on && !/^#/ && NF' "$1/patches/$series/series"; }

# patch_overlays PATCH...: the new files they bring, named between "---" and diff, each after its
# patch and a tab
patch_overlays() {
	awk -v OFS='\t' 'FNR == 1 { diff = 0 } /^diff --git / { diff = 1 } !diff && sub(/^Overlay: /, "") { print FILENAME, $0 }' "$@" </dev/null
}

# patch_changes PATCH...: the files that their diffs change, each after its patch and a tab
patch_changes() { awk -v OFS='\t' '/^diff --git / { print FILENAME, substr($3, 3) }' "$@" </dev/null; }

# patch_notes PATCH: the other lines there, for readers of the mail. They don't get into the commit.
patch_notes() { sed -n '1,/^---$/d;/^diff --git /q;/^Overlay: /d;/./p' "$1"; }

# series_overlays TOP [NAME...]: the new files of these patches, or of all.
series_overlays() {
	local names=("${@:2}")
	[ $# -gt 1 ] || mapfile -t names < <(series_names "$1")
	(cd "$1/patches/$series" && patch_overlays "${names[@]}") | cut -f 2-
}

# series_check TOP: dies if the files of patches/ do not belong together.
series_check() {
	local dir=$1/patches/$series bad path
	[ -f "$dir/series" ] || die "patches/$series/series is missing"
	bad=$(series_names "$1" | sort | uniq -d | sed -n 1p)
	[ -z "$bad" ] || die "patches/$series/series names $bad twice"
	bad=$(comm -3 <(series_names "$1" | sort) <(cd "$dir" && printf '%s\n' *.patch | sed '/^\*/d' | sort) | sed -n 1p)
	case $bad in
	'') ;;
	$'\t'*) die "patches/$series/series does not name ${bad#?}" ;;
	*) die "patches/$series/$bad is missing" ;;
	esac
	bad=$(series_overlays "$1" | sort | uniq -d | sed -n 1p)
	[ -z "$bad" ] || die "$bad is the overlay of two patches ($(cd "$dir" && grep -lx "Overlay: $bad" -- *.patch | paste -sd ' '))"
	while read -r path; do
		case /$path/ in */../* | */./* | *//*) die "Overlay: $path: not a path below the kernel's top" ;; esac
		if [ ! -f "$1/$path" ] || [ -L "$1/$path" ]; then
			die "$path, the overlay of $(cd "$dir" && grep -lx "Overlay: $path" -- *.patch), is missing"
		fi
	done < <(series_overlays "$1")
}

# series_build TOP BASE SCRATCH [NAME...]: commits the series of TOP, or these patches of it, on
# BASE, and sets $built to the last commit. A commit depends on nothing but its files: a list of
# what each was made from finds existing ones. All scripts call this: for a patch that isn't new, no
# process is started.
#
# Patches can change an overlay file after the one that brings it. That one brings what is left of
# the file without them, whether or not they are among NAME...
series_build() {
	local src=$1 tmp=$3 name key path line loaded='' cache=$linux_git/series-cache dir=$1/patches/$series
	local -A known=() of=() hash=() later=()
	local -a all names overlays paths

	series_check "$src"
	built=$(lgit rev-parse --verify "$2^{commit}")
	[ ! -f "$cache" ] || while IFS=$'\t' read -r key line; do known[$key]=$line; done <"$cache"
	mapfile -t all < <(series_names "$src")
	names=("${@:4}")
	[ $# -gt 3 ] || names=("${all[@]}")
	while IFS=$'\t' read -r name path; do
		of[$name]+=$path$'\n'
		paths+=("$src/$path")
	done < <(cd "$dir" && patch_overlays "${names[@]}")
	paths+=("${all[@]/#/"$dir"/}")
	while read -r line; do
		hash[${paths[${#hash[@]}]}]=$line
	done < <(printf '%s\n' "${paths[@]}" | git hash-object --no-filters --stdin-paths)
	# The last one comes first.
	while IFS=$'\t' read -r name path; do
		[ -z "${hash[$src/$path]-}" ] || later[$path]="$name ${later[$path]-}"
	done < <(cd "$dir" && patch_changes "${all[@]}")
	for name in "${names[@]}"; do
		overlays=()
		[ -z "${of[$name]-}" ] || mapfile -t overlays <<<"${of[$name]%$'\n'}"
		key="$built ${hash[$dir/$name]}"
		for path in "${overlays[@]}"; do
			key+=" ${hash[$src/$path]}"
			[ ! -x "$src/$path" ] || key+=x
			for line in ${later[$path]-}; do key+=" ${hash[$dir/$line]}"; done
		done
		if [ -n "${known[$key]-}" ]; then
			built=${known[$key]}
			loaded=''
			continue
		fi
		if [ -z "$loaded" ]; then
			GIT_INDEX_FILE=$tmp/index lgit read-tree "$built"
			loaded=y
		fi
		series_commit "$src" "$name" "$tmp" "${overlays[@]}"
		printf '%s\t%s\n' "$key" "$built" >>"$cache"
	done
	# A hunk can have found another place than the one where it was taken from.
	[ $# -gt 3 ] || [ ${#later[@]} = 0 ] || while read -r _ _ line path; do
		[ "$line" = "${hash[$src/$path]}" ] ||
			die "the patches would not end with $path as it is here: change it by 'make edit'"
	done < <(lgit ls-tree -r "$built" -- "${!later[@]}")
}

file_mode() { if [ -x "$1" ]; then echo 100755; else echo 100644; fi; }

# series_commit TOP NAME SCRATCH OVERLAY...: makes one commit on $built, whose tree is in
# SCRATCH/index, and sets $built to it. series_build's $later has the patches that change an overlay
# file.
series_commit() {
	local src=$1 tmp=$3 where=patches/$series/$2 path key value
	local -A info=()
	shift 3
	local -x GIT_INDEX_FILE=$tmp/index
	lgit mailinfo -k --no-scissors --encoding=UTF-8 "$tmp/body" "$tmp/diff" <"$src/$where" >"$tmp/info" || die "$where: not a mail"
	while IFS= read -r value; do [ -z "$value" ] || info[${value%%: *}]=${value#*: }; done <"$tmp/info"
	for key in Author Email Date Subject; do
		[ -n "${info[$key]-}" ] || die "$where: needs From:, Date: and Subject:"
	done
	if grep -q '^diff --git ' "$tmp/diff"; then
		# Only offsets are accepted: git apply knows no fuzz.
		lgit apply --cached --whitespace=nowarn "$tmp/diff" 2>"$tmp/err" || {
			warn "$where does not apply:"
			cat "$tmp/err" >&2
			die "again: ${again:-scripts/series/apply}"
		}
	elif [ $# = 0 ]; then
		die "$where: neither a diff nor an Overlay: line"
	fi
	if [ $# != 0 ]; then
		path=$(lgit ls-files -- "$@" | sed -n 1p)
		[ -z "$path" ] || die "$where: Overlay: $path, but the kernel has that already"
		printf '%s\n' "${@/#/"$src"/}" | lgit hash-object -w --no-filters --stdin-paths >"$tmp/blobs"
		for path; do
			read -r value
			printf '%s %s\t%s\n' "$(file_mode "$src/$path")" "$value" "$path"
		done <"$tmp/blobs" | lgit update-index --add --index-info
		for path; do
			for key in ${later[$path]-}; do
				where=patches/$series/$key
				lgit apply --cached -R --include="$path" --whitespace=nowarn "$src/$where" 2>/dev/null ||
					die "$path is not as $where leaves it: edit both, or change it by 'make edit'"
			done
		done
	fi
	# The committer is the author, at the author's date: the same files make the same commit,
	# whoever runs this.
	built=$({ printf '%s\n\n' "${info[Subject]}" && cat "$tmp/body"; } | git stripspace |
		GIT_AUTHOR_NAME=${info[Author]} GIT_AUTHOR_EMAIL=${info[Email]} GIT_AUTHOR_DATE=${info[Date]} \
			GIT_COMMITTER_NAME=${info[Author]} GIT_COMMITTER_EMAIL=${info[Email]} GIT_COMMITTER_DATE=${info[Date]} \
			lgit commit-tree -p "$built" "$(lgit write-tree)")
}

# checkout COMMIT DIRECTORY: checks COMMIT out to DIRECTORY, a worktree of build/linux.git. Files
# that stay the same stay untouched. Until this script ends, no other one changes DIRECTORY; those
# that want the same COMMIT may read it.
declare -A tree_locks=()
checkout() {
	local commit fd=${tree_locks[$2]-}
	commit=$(lgit rev-parse --verify "$1^{commit}")
	if [ -z "$fd" ]; then
		mkdir -p "$top/build/lock"
		exec {fd}>>"$top/build/lock/tree-$(tr / - <<<"${2#"$top/build/"}")"
		tree_locks[$2]=$fd
	fi
	flock --shared "$fd"
	until holds "$commit" "$2"; do
		flock --nonblock "$fd" || { say "$me: waiting for another script that uses ${2#"$top"/}" >&2; flock "$fd"; }
		if [ -e "$2/.git" ]; then
			git -C "$2" checkout -q --detach "$commit"
		else
			say "$me: unpacking ${2#"$top"/}" >&2
			mkdir -p "${2%/*}"
			(
				lock worktrees
				rm -rf "$2"
				lgit worktree prune
				lgit worktree add -q --detach "$2" "$commit"
			)
		fi
		flock --shared "$fd"
	done
}

# holds COMMIT DIRECTORY
holds() {
	[ -e "$2/.git" ] || return 1
	# A project that was moved takes its worktrees along.
	git -C "$2" rev-parse -q --verify HEAD >/dev/null 2>&1 || lgit worktree repair "$2" >/dev/null
	[ -z "$(git -C "$2" status --porcelain)" ] || die "${2#"$top"/} was changed by hand: keep what you want with 'make edit', then remove that folder"
	[ "$(git -C "$2" rev-parse HEAD)" = "$1" ]
}

# headers_of COMMIT: what its headers for user space are made from
headers_of() { lgit ls-tree -r "$1" -- arch/x86/include/uapi arch/x86/entry/syscalls include/uapi | git hash-object --stdin; }

# edit_is BASE COMMIT TIP: notes that patches/, which make COMMIT on BASE, and the branch edit,
# which is at TIP, are in sync.
edit_is() {
	lgit update-ref refs/edit/base "$1"
	lgit update-ref refs/edit/opened "$2"
	lgit update-ref refs/edit/kept "$3"
}

# in_root COMMAND...: runs it where the compiler is, in the project's top.
in_root() { (cd "$top" && exec "$top/scripts/in-root" -- "$@"); }

# initramfs FOLDER FILE: packs FOLDER into FILE.
# shellcheck disable=SC2016 # expanded by sh
initramfs() { in_root sh -c 'cd "$1" && find . | cpio -o -H newc -R 0:0 --quiet' - "$1" >"$2"; }

# kvm_initramfs FILE PROGRAM...: packs what a guest of QEMU that uses KVM itself needs, with these
# selftests, into FILE. It needs $tmp.
kvm_initramfs() {
	local program machine=$top/tools/testing/bochs
	mkdir -p "$tmp"/root/{bin,dev,proc,sys,tmp}
	cp "$top/build/root/usr/bin/busybox" "$machine/run-tests" "$machine/splats" "$tmp/root/bin"
	cp "$machine/guest/kvm-init" "$tmp/root/init"
	for program in "${@:2}"; do cp -L "$top/build/selftests/$program" "$tmp/root"; done
	initramfs "$tmp/root" "$1"
}

# from_deb PACKAGE VERSION FILE: prints FILE, compressed with xz, of a package that apt offers.
# shellcheck disable=SC2016 # expanded inside the root
from_deb() (
	mkdir "$tmp/deb" && trap 'rm -r "$tmp/deb"' EXIT && cd "$tmp/deb" &&
		"$top/scripts/in-root" -- bash -c 'set -e -o pipefail
			apt-get -qq download "$1=$2" >&2
			dpkg-deb --fsys-tarfile "$1"_*.deb | tar -xO "./$3" | xz -d' - "$@"
)

# logged LOG WHAT COMMAND...: runs it with its output added to LOG, and reports its progress now and
# then. $again repeats the step.
logged() {
	local log=$1 what=$2 ticker status=0
	shift 2
	tick "$log" "$what" >&2 &
	ticker=$!
	"$@" >>"$log" 2>&1 </dev/null || status=$?
	kill "$ticker"
	wait "$ticker" 2>/dev/null || :
	[ $status = 0 ] || {
		# Not the errors that merely follow: with a kernel, they would be all that is shown.
		grep -E '([Ee]rror|ERROR|undefined reference|not found)' "$log" | grep -vE '^  [A-Z]|^make.* Error 2$' | tail -n 15 >&2 || :
		tail -n 5 "$log" >&2
		die "$what: failed, see $log; again: $again"
	}
}

# tick LOG WHAT: reports progress. A sleep(1) would survive this, and keep locks and pipes open.
tick() {
	local never steps start=$SECONDS
	exec {never}<> <(:)
	while ! read -rt 10 -u "$never" && kill -0 $$ 2>/dev/null; do
		steps=$(grep '^  [A-Z]' "$1") || continue
		say "$2: $((SECONDS - start)) s, $(wc -l <<<"$steps") steps,$(tail -n 1 <<<"$steps" | tr -s ' ')"
	done
}

kernel_cc=$top/scripts/build/cc
# kernel_make DIRECTORY ARGUMENT...: runs make for DIRECTORY/linux with objects in DIRECTORY/obj.
# Neither git's state nor the time of day gets into the result, or ccache would find nothing. ccache
# goes by dependencies: to preprocess what it doesn't know takes a fifth of a build's time, and
# finds next to nothing, as the series changes headers that all of the kernel includes.
kernel_make() {
	local dir=$1
	shift
	in_root env CCACHE_DEPEND=1 make -C "$dir/linux" O="$dir/obj" -j"$(nproc)" CC="$kernel_cc" HOSTCC='ccache gcc' LOCALVERSION= \
		KBUILD_BUILD_TIMESTAMP='1970-01-01' KBUILD_BUILD_USER=build KBUILD_BUILD_HOST=build KBUILD_BUILD_VERSION=1 "$@"
}

# is_gone DIRECTORY CONFIG_SYMBOL=VALUE: whether it holds mainline, which has no such symbol
is_gone() {
	local symbol=${2#CONFIG_}
	[ "$series" = "$mainline" ] &&
		! git -C "$1/linux" grep -qE "^(menu)?config ${symbol%%=*}\$" -- '*Kconfig*'
}

# kernel_config DIRECTORY LOG FRAGMENT...: makes DIRECTORY/obj/.config of tinyconfig and the
# fragments, unless that is done already.
kernel_config() {
	local dir=$1 log=$2 config=$1/obj/.config stamp=$1/obj/.made-from from line missing=()
	shift 2
	from=$(cat "$@" <(git -C "$dir/linux" ls-tree -r HEAD | grep -E 'Kconfig|/configs/|scripts/kconfig/') | git hash-object --stdin)
	[ ! -f "$config" ] || ! made_from "$stamp" "$from" || return 0
	logged "$log" tinyconfig kernel_make "$dir" tinyconfig
	logged "$log" merge_config.sh in_root "$dir/linux/scripts/kconfig/merge_config.sh" -m -O "$dir/obj" "$config" "$@"
	logged "$log" olddefconfig kernel_make "$dir" olddefconfig
	# Of a symbol that two fragments set, the last counts.
	while read -r line; do
		case $line in
		*=n) ! grep -q "^${line%n}" "$config" || missing+=("$line") ;;
		*) grep -qFx "$line" "$config" || is_gone "$dir" "$line" || missing+=("$line") ;;
		esac
	done < <(cat "$@" | sed -n 's/^# \(CONFIG_[^ ]*\) is not set$/\1=n/;/^CONFIG_/p' | tac | awk -F = '!seen[$1]++')
	[ ${#missing[@]} = 0 ] || die "the kernel does not let the configuration have ${missing[*]} (fragment: ${*#"$top"/})"
	made "$stamp" "$from"
}

# check_tree COMMIT: checks COMMIT out to build/check/linux, configured as the machine's kernel, but
# with KVM as modules.
check=$top/build/check${SERIES:+-$SERIES}
check_tree() {
	checkout "$1" "$check/linux"
	mkdir -p "$check/obj" "$top/build/log"
	kernel_config "$check" "$top/build/log/check-config.log" \
		"$top"/tools/testing/bochs/{kernel,modules}.config
}
