// SPDX-License-Identifier: GPL-2.0
/*
 * Process 1 of the CET machine: sets up the few things a test expects of a
 * system, runs the command it was given, reports how that ended and switches
 * the machine off.
 *
 * The command talks to the caller through the second serial port.  Reports go
 * through the emulator's debug port instead, with a word that only this
 * power-on knows, so that no output can be taken for a report.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PORT_DEBUG	0xe9
#define PORT_SHUTDOWN	0x8900
#define COMMAND_TTY	"/dev/ttyS1"

/* Files that the runner puts into the initramfs; lists end each item with NUL. */
#define MACHINE		"/.machine/"

static char word[64];

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
	for (i = 0; text[i]; i++)
		outb(text[i], PORT_DEBUG);
}

static void __attribute__((noreturn)) power_off(void)
{
	const char *magic;

	/* What a port has taken it must still send, or the last bytes never arrive. */
	tcdrain(STDOUT_FILENO);
	usleep(20000);
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

/* A kernel of the caller's own may lack a file system; all else is a surprise. */
static void mount_at(const char *type, const char *where, unsigned long flags)
{
	mkdir(where, 0755);
	if (mount(type, where, type, flags, NULL) && errno != ENODEV && errno != ENOENT)
		fail("mount %s on %s", type, where);
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
	int fd = open(COMMAND_TTY, O_RDWR | O_NOCTTY);

	if (fd < 0)
		fail(COMMAND_TTY);
	if (tcgetattr(fd, &mode))
		fail("%s: tcgetattr", COMMAND_TTY);
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
	int shell, status, fd;
	size_t length;
	char **argv;
	pid_t pid;

	if (getpid() != 1) {
		fprintf(stderr, "init: this is process 1 of the CET machine\n");
		return 1;
	}
	/* Also the way to /dev/console: an initramfs made by a plain user has no device nodes. */
	mount_at("devtmpfs", "/dev", 0);
	for (fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/console", O_RDWR) != fd)
			return 2;
	if (ioperm(PORT_DEBUG, 1, 1) || ioperm(PORT_SHUTDOWN, 1, 1)) {
		perror("init: ioperm (the kernel needs CONFIG_X86_IOPL_IOPERM)");
		return 3;
	}
	strncpy(word, slurp(MACHINE "word", &length), sizeof(word) - 1);
	report("up");

	mount_at("proc", "/proc", 0);
	mount_at("sysfs", "/sys", 0);
	mount_at("debugfs", "/sys/kernel/debug", 0);
	mount_at("devpts", "/dev/pts", 0);
	mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV);
	mount_at("tmpfs", "/tmp", MS_NOSUID | MS_NODEV);
	mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV);
	loopback_up();

	shell = !access(MACHINE "window", F_OK);
	open_tty(shell);
	if (shell)
		set_window();
	argv = slurp_list(MACHINE "environment");
	for (; *argv; argv++)
		putenv(*argv);
	argv = slurp_list(MACHINE "command");
	pid = start(argv, shell);
	while (waitpid(-1, &status, 0) != pid)
		;
	report("exit %d", WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	power_off();
}
