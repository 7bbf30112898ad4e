"""llama.cpp driven directly, as the measure that benches/generation.rs compares the engine with.

Uses the low-level interface of llama-cpp-python (one call of llama_decode a step, the likeliest token from the raw
logits), so that what is measured is llama.cpp and not the package's own generation loop.

Reads one JSON request a line from standard input and answers each with one JSON line:

    {"cached": [96, 96], "prompts": [612, 580], "early": [12, 1], "tokens": [64, 41]}

computes prompts of so many tokens one after the other, each behind so many that are in the cache before the clock
starts; then the sequences together, one batch a step, each until it has its early tokens, and then each until it has
all of its tokens. Which tokens a prompt has does not matter to the time they take. The answer has "prefill_seconds",
"early_seconds" and "late_seconds". The first line, before any request, tells the version.
"""

import argparse
import json
import sys
import time

import llama_cpp
import llama_cpp.llama_cpp as api
import numpy


@api.llama_log_callback
def quiet(_level, _text, _data):
    pass


class Driver:
    """A model with a context of several sequences."""

    def __init__(self, options):
        api.llama_log_set(quiet, None)
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(options.model.encode(), api.llama_model_default_params())
        if not self.model:
            sys.exit(f"bench: {options.model} cannot be loaded")
        self.vocab = api.llama_model_get_vocab(self.model)
        self.vocabulary = api.llama_vocab_n_tokens(self.vocab)
        self.batch_tokens = options.batch
        params = api.llama_context_default_params()
        params.n_ctx = options.sequences * options.context
        params.n_seq_max = options.sequences
        params.n_batch = params.n_ubatch = options.batch
        params.n_threads = params.n_threads_batch = options.threads
        params.kv_unified = options.unified
        params.flash_attn_type = options.flash_attention
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit("bench: llama.cpp cannot make the context")
        self.batch = api.llama_batch_init(options.batch, 0, 1)

    def decode(self, entries):
        """One step: (token, position, sequence, whether its logits are wanted) each."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for n, (token, position, sequence, logits) in enumerate(entries):
            batch.token[n] = token
            batch.pos[n] = position
            batch.n_seq_id[n] = 1
            batch.seq_id[n][0] = sequence
            batch.logits[n] = logits
        status = api.llama_decode(self.context, batch)
        if status != 0:
            sys.exit(f"bench: llama_decode gave {status}")

    def likeliest(self, n):
        logits = numpy.ctypeslib.as_array(api.llama_get_logits_ith(self.context, n), shape=(self.vocabulary,))
        return int(logits.argmax())

    def read(self, sequence, begin, end):
        """Computes the tokens of a sequence at the positions from begin to before end."""
        for first in range(begin, end, self.batch_tokens):
            positions = range(first, min(first + self.batch_tokens, end))
            token = lambda position: 1000 + (sequence * 7919 + position * 104729) % 40000
            self.decode([(token(position), position, sequence, position == end - 1) for position in positions])
        return len(positions) - 1

    def run(self, request):
        cached, prompts = request["cached"], request["prompts"]
        lengths = [before + new for before, new in zip(cached, prompts)]
        api.llama_memory_clear(api.llama_get_memory(self.context), False)
        for sequence, before in enumerate(cached):
            if before > 0:
                self.read(sequence, 0, before)
        # llama.cpp may compute in the background until its results are asked for.
        api.llama_synchronize(self.context)
        clock = [time.perf_counter()]
        next_tokens = []
        for sequence, before in enumerate(cached):
            next_tokens.append(self.likeliest(self.read(sequence, before, lengths[sequence])))
        clock.append(time.perf_counter())
        # The first token of each came with the end of its prompt.
        said = [1] * len(lengths)
        for wanted in request["early"], request["tokens"]:
            while active := [n for n in range(len(lengths)) if said[n] < wanted[n]]:
                self.decode([(next_tokens[n], lengths[n] + said[n] - 1, n, True) for n in active])
                for place, n in enumerate(active):
                    next_tokens[n] = self.likeliest(place)
                    said[n] += 1
            clock.append(time.perf_counter())
        prefill, early, late = (end - start for start, end in zip(clock, clock[1:]))
        return {"prefill_seconds": prefill, "early_seconds": early, "late_seconds": late}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the GGUF file")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--context", type=int, default=2048, help="tokens of one sequence")
    parser.add_argument("--batch", type=int, default=512, help="most tokens of a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--unified", action="store_true", help="one key-value cache for all sequences")
    parser.add_argument("--flash-attention", type=int, default=-1, choices=(-1, 0, 1), help="-1 is llama.cpp's choice")
    driver = Driver(parser.parse_args())
    print(json.dumps({"llama_cpp_python": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(driver.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
