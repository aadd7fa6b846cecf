/* SPDX-License-Identifier: Apache-2.0 */
/* How cost grows with streams and with the mapped range, on the model of smmu.c; the README says what each row does. */
#define _GNU_SOURCE
#include "smmu.h"
#include "bench.h"

#define PA_BASE      0x100000000ull
#define S1_ATTRS     0xf40
#define STREAMS  65536u
#define N        (1u << 18)
#define PAGES    32768u /* of each span */

static const struct { const char *name; unsigned log2; } spans[] = {
	{ "1G", 30 }, { "16G", 34 }, { "256G", 38 }, { "1T", 40 },
};
#define SPANS (sizeof(spans) / sizeof(spans[0]))

static uint64_t bump = 4096; /* address 0 stays unused: it means "none" */
static uint64_t level2, cds;

static uint64_t guest_alloc(uint64_t bytes, uint64_t align)
{
	uint64_t pa = (bump + align - 1) & ~(align - 1);

	bump = pa + bytes;
	if (bump > MEM_BYTES)
		die("guest memory is full");
	memset(mem + pa, 0, bytes);
	return pa;
}

static void map_page(uint64_t root, uint64_t address, uint64_t pa)
{
	uint64_t table = root;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t slot = slot_address(table, address, shift), desc = read64(slot);

		if (!desc) {
			desc = guest_alloc(4096, 4096) | 3;
			write64(slot, desc);
		}
		table = desc & ADDR_47_12;
	}
	write64(slot_address(table, address, 12), pa | S1_ATTRS | 3);
}

static void stream(uint32_t sid, uint64_t root)
{
	const uint64_t ste = level2 + (uint64_t)sid * 64, cd = cds + (uint64_t)sid * 64;

	write64(ste, cd | 5 << 1 | 1);
	write64(cd, (uint64_t)sid << 48 | 1ull << 31 | 20); /* ASID, V, T0SZ */
	write64(cd + 8, root);
}

static uint64_t random_page(unsigned log2)
{
	return rng() % (1ull << (log2 - 12));
}

/* Streams 0 to 3 have a span each, all others four pages of one space. */
static void build_guest(void)
{
	uint64_t small;

	mem = reserve(MEM_BYTES);
	stream_bits = 16;
	stream_split = 8;
	stream_table = guest_alloc((STREAMS >> stream_split) * 8, 64);
	level2 = guest_alloc((uint64_t)STREAMS * 64, 64);
	cds = guest_alloc((uint64_t)STREAMS * 64, 64);
	for (uint32_t i = 0; i < STREAMS >> stream_split; i++)
		write64(stream_table + i * 8, (level2 + ((uint64_t)i * 64 << stream_split)) | (stream_split + 1));
	for (uint32_t span = 0; span < SPANS; span++) {
		const uint64_t root = guest_alloc(4096, 4096);

		stream(span, root);
		for (uint32_t i = 0; i < PAGES; i++) {
			const uint64_t address = random_page(spans[span].log2) << 12;

			map_page(root, address, PA_BASE + address);
		}
	}
	small = guest_alloc(4096, 4096);
	for (uint64_t page = 0; page < 4; page++)
		map_page(small, page << 12, PA_BASE + (page << 12));
	for (uint32_t sid = SPANS; sid < STREAMS; sid++)
		stream(sid, small);
}

static uint64_t *addresses;
static uint32_t *sids;
static volatile uint64_t result;

/* All operations, once untimed and then once per sample. */
static void measure(const char *group, const char *size, int samples)
{
	uint64_t pa = 0, sum = 0;
	char name[64];

	snprintf(name, sizeof(name), "hw.growth.%s.%s", group, size);
	for (int round = -1; round < samples; round++) {
		const double start = now_ns();

		for (uint32_t i = 0; i < N; i++) {
			if (translate(sids[i], addresses[i], false, &pa) != OK)
				die(name);
			sum += pa;
		}
		if (round >= 0)
			report(name, (now_ns() - start) / N);
	}
	if (pa != PA_BASE + addresses[N - 1])
		die("wrong address");
	result = sum;
}

int main(int argc, char **argv)
{
	static const struct { const char *name; uint32_t count; } counts[] = {
		{ "1", 1 }, { "64", 64 }, { "1k", 1024 }, { "64k", 65536 },
	};
	const int samples = samples_from(argc, argv);
	static uint64_t pages[PAGES];

	build_guest();
	addresses = allocate(N * sizeof(*addresses));
	sids = allocate(N * sizeof(*sids));
	for (unsigned c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
		for (uint32_t i = 0; i < N; i++) {
			const uint32_t sid = rng() % counts[c].count + (counts[c].count < STREAMS ? 4096 : 0);

			sids[i] = sid < SPANS ? SPANS : sid;
			addresses[i] = rng() & 0x3fff;
		}
		measure("streams", counts[c].name, samples);
	}
	for (uint32_t span = 0; span < SPANS; span++) {
		/* The pages again, as they were drawn, in another order. */
		const uint32_t state = rng_state;

		rng_state = SEED;
		for (uint32_t before = 0; before < span * PAGES; before++)
			rng();
		for (uint32_t i = 0; i < PAGES; i++)
			pages[i] = random_page(spans[span].log2);
		rng_state = state;
		for (uint32_t i = 0; i < N; i++) {
			const uint64_t page = pages[rng() % PAGES];

			sids[i] = span;
			addresses[i] = page << 12 | (rng() & 0xfff);
		}
		measure("bytes", spans[span].name, samples);
	}
	return 0;
}
