// SPDX-License-Identifier: GPL-2.0
/*
 * Single-steps the first CPU of a guest by QEMU's stub for gdb, reads its
 * registers each time, and lets the guest go on.  Meanwhile, the guest gets no
 * interrupts: its handlers would return with the debugger's trap flag.
 *
 *	gdb-steps SOCKET STEPS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int fd;

static void __attribute__((noreturn)) fail(const char *what)
{
	fprintf(stderr, "gdb-steps: %s\n", what);
	exit(1);
}

static char get_char(void)
{
	char c;

	if (read(fd, &c, 1) != 1)
		fail("QEMU has closed the connection");
	return c;
}

/* Send a command; returns its answer. */
static const char *ask(const char *command)
{
	static char answer[1 << 14];
	unsigned char sum = 0;
	char packet[64];
	size_t n = 0;
	int i;

	for (i = 0; command[i]; i++)
		sum += command[i];
	i = snprintf(packet, sizeof(packet), "$%s#%02x", command, sum);
	if (write(fd, packet, i) != i)
		fail("QEMU reads no command");
	while (get_char() != '$')
		;
	while ((answer[n] = get_char()) != '#' && n < sizeof(answer) - 1)
		n++;
	answer[n] = 0;
	get_char();
	get_char();
	if (write(fd, "+", 1) != 1)
		fail("QEMU reads no answer");
	return answer;
}

int main(int argc, char *argv[])
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int i, steps;
	const char *answer;

	if (argc != 3)
		fail("usage: gdb-steps SOCKET STEPS");
	steps = atoi(argv[2]);
	strncpy(addr.sun_path, argv[1], sizeof(addr.sun_path) - 1);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (void *)&addr, sizeof(addr)))
		fail("no connection");

	for (i = 0; i < steps; i++) {
		answer = ask("s");
		if (strncmp(answer, "T05", 3))
			fail(answer);
		ask("g");
	}
	if (strcmp(ask("D"), "OK"))
		fail("QEMU doesn't let the guest go");
	printf("stepped %d times\n", steps);
	return 0;
}
