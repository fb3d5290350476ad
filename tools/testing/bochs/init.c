// SPDX-License-Identifier: GPL-2.0
/*
 * Process 1 of the CET machine: sets up the few things a test expects of a
 * system, runs the command it was given, reports how that ended and switches
 * the machine off.
 *
 * The command talks to the caller through the second serial port.  Reports go
 * through the emulator's debug port, or the console where the kernel allows no
 * access to ports.  They start with a word that only this power-on knows: no
 * output can be taken for a report.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PORT_DEBUG	0xe9
#define PORT_SHUTDOWN	0x8900
#define CONSOLE_TTY	"/dev/ttyS0"
#define COMMAND_TTY	"/dev/ttyS1"

/* Files that the runner puts into the initramfs; lists end each item with NUL. */
#define MACHINE		"/.machine/"

static char word[64];

/* Reports go here without CONFIG_X86_IOPL_IOPERM, or with lockdown. */
static int console = -1;

/* For tests of init: "lacks=ioperm,devtmpfs" among the kernel's parameters. */
static int lacks(const char *what)
{
	const char *list = getenv("lacks");

	return list && strstr(list, what);
}

static void report(const char *format, ...)
{
	char text[512];
	va_list args;
	int i, n;

	n = snprintf(text, sizeof(text), "\n%s ", word);
	va_start(args, format);
	vsnprintf(text + n, sizeof(text) - n - 1, format, args);
	va_end(args);
	strcat(text, "\n");
	if (console < 0) {
		for (i = 0; text[i]; i++)
			outb(text[i], PORT_DEBUG);
		return;
	}
	/* A message of the kernel must not end up in the middle. */
	klogctl(6, NULL, 0);
	dprintf(console, "%s", text);
	tcdrain(console);
	klogctl(7, NULL, 0);
}

static void __attribute__((noreturn)) power_off(void)
{
	const char *magic;

	/* The port must still send what it has taken, or the last bytes get lost. */
	tcdrain(STDOUT_FILENO);
	usleep(20000);
	/* The way out without ports: "reboot=t" ends the emulator by a triple fault. */
	if (console >= 0)
		reboot(RB_AUTOBOOT);
	else
		for (magic = "Shutdown"; *magic; magic++)
			outb(*magic, PORT_SHUTDOWN);
	for (;;)
		pause();
}

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...)
{
	char text[256];
	va_list args;
	int error = errno;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	report("error %s: %s", text, strerror(error));
	power_off();
}

/*
 * Sends a file that the command has left, between two lines, as not every file
 * has a size.  A command that fails need not leave it.
 */
static void send_file(const char *name, int status)
{
	static char data[1 << 16];
	ssize_t n = 0;
	int fd;

	errno = ENOSYS;
	if (console >= 0)
		fail("--get: the kernel lacks CONFIG_X86_IOPL_IOPERM");
	fd = open(name, O_RDONLY);
	report("<");
	while (fd >= 0 && (n = read(fd, data, sizeof(data))) > 0)
		outsb(PORT_DEBUG, data, n);
	report(">");
	if ((fd < 0 || n < 0) && !status)
		fail("--get: %s", name);
}

static char *slurp(const char *name, size_t *length)
{
	static const size_t max = 1 << 20;
	char *data = calloc(1, max + 1);
	int fd = open(name, O_RDONLY);
	ssize_t n;

	if (!data || fd < 0)
		fail("%s", name);
	for (*length = 0; (n = read(fd, data + *length, max - *length)) > 0; *length += n)
		;
	if (n < 0)
		fail("%s", name);
	close(fd);
	return data;
}

static char **slurp_list(const char *name)
{
	size_t length, count = 0;
	char *data = slurp(name, &length), *p;
	char **list = calloc(length + 1, sizeof(*list));

	if (!list)
		fail("%s", name);
	for (p = data; p < data + length; p += strlen(p) + 1)
		list[count++] = p;
	return list;
}

/*
 * Returns 0 if the kernel lacks the file system, as one of the caller's may.
 * Any other failure is unexpected.
 */
static int mount_at(const char *type, const char *where, unsigned long flags)
{
	mkdir(where, 0755);
	if (lacks(type))
		return 0;
	if (!mount(type, where, type, flags, NULL))
		return 1;
	if (errno != ENODEV && errno != ENOENT)
		fail("mount %s on %s", type, where);
	return 0;
}

/* Stands in for devtmpfs: an initramfs made by a plain user has no device nodes. */
static void make_nodes(void)
{
	static const struct {
		const char *name;
		int major, minor;
	} nodes[] = {
		{ "/dev/null", 1, 3 }, { "/dev/zero", 1, 5 }, { "/dev/full", 1, 7 },
		{ "/dev/random", 1, 8 }, { "/dev/urandom", 1, 9 }, { "/dev/kmsg", 1, 11 },
		{ CONSOLE_TTY, 4, 64 }, { COMMAND_TTY, 4, 65 }, { "/dev/tty", 5, 0 },
		{ "/dev/console", 5, 1 }, { "/dev/ptmx", 5, 2 }, { "/dev/kvm", 10, 232 },
	};
	size_t i;

	for (i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
		mknod(nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor));
}

static void open_standard(void)
{
	int fd;

	for (fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/console", O_RDWR) != fd &&
		    open("/dev/null", O_RDWR) != fd)
			fail("/dev/null");
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	if (fd < 0) {
		if (errno != ENOSYS && errno != EAFNOSUPPORT)
			fail("socket");
		return;
	}
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		fail("loopback interface");
	close(fd);
}

static void open_tty(int shell)
{
	struct termios mode;
	int fd = lacks("ttyS1") ? -1 : open(COMMAND_TTY, O_RDWR | O_NOCTTY);

	/* The device may exist without a port. */
	if (fd < 0 || tcgetattr(fd, &mode))
		fail("the kernel lacks CONFIG_SERIAL_8250, or has CONFIG_SERIAL_8250_RUNTIME_UARTS below 2: "
		     COMMAND_TTY);
	if (!shell)
		cfmakeraw(&mode);
	mode.c_cflag |= CLOCAL;
	cfsetspeed(&mode, B115200);
	if (tcsetattr(fd, TCSANOW, &mode))
		fail("%s: tcsetattr", COMMAND_TTY);
	if (dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
		fail("dup2");
	if (!shell) {
		close(fd);
		fd = open("/dev/null", O_RDONLY);
		if (fd < 0)
			fail("/dev/null");
	}
	if (dup2(fd, STDIN_FILENO) < 0)
		fail("dup2");
	if (fd > STDERR_FILENO)
		close(fd);
}

static void set_window(void)
{
	size_t length;
	char *text = slurp(MACHINE "window", &length);
	struct winsize size = { 0 };

	if (sscanf(text, "%hu %hu", &size.ws_row, &size.ws_col) == 2 &&
	    ioctl(STDIN_FILENO, TIOCSWINSZ, &size))
		fail("TIOCSWINSZ");
	free(text);
}

/* The list has pairs: a file, and the parameters of that module. */
static void load_modules(void)
{
	char **list = slurp_list(MACHINE "modules");
	int fd;

	for (; *list; list += 2) {
		fd = open(list[0], O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, list[1], 0))
			fail("%smodule %s", errno == ENOSYS ? "the kernel lacks CONFIG_MODULES: " : "", list[0]);
		close(fd);
	}
}

static void count_cpus(void)
{
	size_t length;
	char *wanted = slurp(MACHINE "cpus", &length);
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		fail("sched_getaffinity");
	if (CPU_COUNT(&set) != atoi(wanted))
		report("note the kernel runs %d of %s CPUs: it wants CONFIG_SMP, CONFIG_NR_CPUS, and CONFIG_X86_MPPARSE or CONFIG_ACPI",
		       CPU_COUNT(&set), wanted);
	free(wanted);
}

static int has_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR);

	return fd >= 0 && !close(fd);
}

static pid_t start(char **argv, int shell)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (pid)
		return pid;
	if (setsid() < 0 || (shell && ioctl(STDIN_FILENO, TIOCSCTTY, 0)))
		fail("session");
	execvp(argv[0], argv);
	pid = errno == ENOENT ? 127 : 126;
	dprintf(STDERR_FILENO, "%s: %s\n", argv[0], pid == 127 ? "not found" : strerror(errno));
	_exit(pid);
}

int main(void)
{
	int shell, status, kvm;
	size_t length;
	char **argv;
	pid_t pid;

	if (getpid() != 1) {
		fprintf(stderr, "init: this is process 1 of the CET machine\n");
		return 1;
	}
	strncpy(word, slurp(MACHINE "word", &length), sizeof(word) - 1);
	if (!mount_at("devtmpfs", "/dev", 0))
		make_nodes();
	open_standard();
	if (lacks("ioperm") || ioperm(PORT_DEBUG, 1, 1) || ioperm(PORT_SHUTDOWN, 1, 1)) {
		console = open(CONSOLE_TTY, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (console < 0)
			return 3; /* see power-on */
	}
	report("up");

	mount_at("proc", "/proc", 0);
	mount_at("sysfs", "/sys", 0);
	mount_at("debugfs", "/sys/kernel/debug", 0);
	mount_at("devpts", "/dev/pts", 0);
	mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV);
	mount_at("tmpfs", "/tmp", MS_NOSUID | MS_NODEV);
	mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV);
	loopback_up();
	count_cpus();
	load_modules();

	shell = !access(MACHINE "window", F_OK);
	open_tty(shell);
	if (shell)
		set_window();
	argv = slurp_list(MACHINE "environment");
	for (; *argv; argv++)
		putenv(*argv);
	argv = slurp_list(MACHINE "command");
	kvm = has_kvm();
	pid = start(argv, shell);
	while (waitpid(-1, &status, 0) != pid)
		;
	/* The command may have loaded or unloaded KVM. */
	if (!kvm && !has_kvm())
		report("note there is no /dev/kvm: the kernel wants CONFIG_KVM_INTEL=y, or its modules by --modules");
	status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	for (argv = slurp_list(MACHINE "wanted"); *argv; argv++)
		send_file(*argv, status);
	report("exit %d", status);
	power_off();
}
