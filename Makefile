# SPDX-License-Identifier: GPL-2.0
# Names for what scripts/ does, for those who like make.

ifdef BASE
export SERIES := $(BASE)
endif

.PHONY: help root kernel base mainline repaired selftests deb series diff edit fold repin run bench compare check check-full check-hardware check-versions fuzz fuzz-compare mutants mutants-all clean
help:
	@echo 'make run        build what is missing, boot it, and show a guest that uses CET'
	@echo 'make bench      count what CET costs, in instructions; other kernels, too: scripts/bench --kernel BZIMAGE'
	@echo 'make check      all tests but those that take hours; one of them: scripts/check NAME...'
	@echo 'make check-full these too: kernels with debugging or PREEMPT_RT, and other configurations'
	@echo 'make check-hardware  the selftests on this computer, for those who have CET and run a kernel with the series'
	@echo 'make mutants    each rule broken on purpose, which the tests must notice (hours); some: scripts/mutants NAME...'
	@echo 'make mutants-all the lines of the series changed mechanically, one at a time (a night); some: scripts/mutants --lines NAME...'
	@echo 'make fuzz       random operations on CET of guests; OPERATIONS=n SEED=n KERNEL=patched|kasan|debug'
	@echo 'make fuzz-compare  the same operations on mainline, which differs as known; OPERATIONS=n SEED=n'
	@echo 'make compare    the selftests on mainline, whose differences are known: tools/testing/bochs/mainline.expected'
	@echo 'make check-versions  on which of the sources that apt offers the series applies, builds and passes its tests'
	@echo
	@echo 'scripts/build/, what is built from the series:'
	@echo 'make kernel     build/6.12/patched/bzImage: Linux 6.12 with the series'
	@echo 'make base       build/6.12/base/bzImage: the same source and configuration without it'
	@echo 'make mainline   build/7.3/base/bzImage: mainline in the same configuration'
	@echo 'make repaired   build/7.3/patched/bzImage: mainline with the repairs of patches/7.3'
	@echo 'make selftests  build/selftests: the KVM selftests of the series; others: scripts/build/selftests NAME...'
	@echo 'make deb        out/deb: Debian packages to install, configured as Debian does it; takes hours'
	@echo 'make root       build/root: compiler, emulator and QEMU from packages'
	@echo
	@echo 'scripts/series/, the series itself:'
	@echo 'make edit       build/edit/linux: the series as commits, to work on'
	@echo 'make fold       bring these commits back into patches/ and the overlay files'
	@echo 'make series     out/6.12: the series as it is mailed; PARTS=kernel leaves the selftests out; out/6.12-lab: what is not mailed'
	@echo 'make diff       the series as one diff; of some files: scripts/series/diff PATH...'
	@echo 'make repin      take the series over to the newest source that apt offers'
	@echo
	@echo 'make clean      remove build/ and out/'
	@echo
	@echo 'BASE=7.3 with series, diff, edit, fold, repin, selftests: the repairs of mainline in place of the series'
	@echo 'BASE_VERSION=6.12.y chooses among the sources that apt offers; the default is the newest.'

root:
	@scripts/build/root
kernel:
	@scripts/build/kernel patched
base:
	@scripts/build/kernel base
mainline repaired:
	@scripts/build/kernel $@
selftests:
	@scripts/build/selftests
deb:
	@scripts/build/deb
series:
	@scripts/series/export
diff edit fold repin:
	@scripts/series/$@
run:
	@scripts/demo
bench:
	@scripts/bench
compare:
	@scripts/kvm-tests mainline
check:
	@scripts/check
check-full:
	@scripts/check --full
check-hardware:
	@scripts/check-hardware
mutants:
	@scripts/mutants
mutants-all:
	@scripts/mutants --lines
fuzz:
	@scripts/fuzz $(if $(SEED),-s $(SEED)) $(if $(OPERATIONS),-n $(OPERATIONS)) $(KERNEL)
fuzz-compare:
	@scripts/fuzz-compare $(if $(SEED),-s $(SEED)) $(if $(OPERATIONS),-n $(OPERATIONS))
check-versions:
	@scripts/check-versions
clean:
	@scripts/build/clean
