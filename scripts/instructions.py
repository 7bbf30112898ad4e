"""Says which functions of a program use AVX-512, and fails where one does that nothing chooses at run time.

`instructions.py PROGRAM`, for a program with symbols. A register zmm0..31 or a mask k0..7 makes an instruction one of
AVX-512; AVX2 has neither.
"""

import collections
import re
import subprocess
import sys

# Those that are reached only after the processor was asked what it has.
CHOSEN = {
    "gemm": r"\bgemm_(common|f16|f32|f64|c32|c64)::|\bgemm::|\bnano_gemm",  # is_x86_feature_detected in gemm's `x86_feature_detected!`
    "pulp": r"\bpulp::",  # Arch::new
    "fearless_simd": r"\bfearless_simd::",  # Level::new
    "crc32fast": r"\bcrc32fast::specialized::",  # State::new
    "aes": r"\baes::backends::x86_vaes512::",  # the crate cpufeatures
    # gcm.c: crypto_gcm_avx512_enabled; exponentiation.c: CRYPTO_is_AVX512IFMA_capable. The last two are labels within gcm_setiv.
    "aws-lc": r"\baws_lc_\w+_(avx512|ifma256|win5)\b|<(skip_)?iv_len_12_init_IV>",
}
FUNCTION = re.compile(r"^(?:[0-9a-f]+ )?<.+>:$")
WIDE = re.compile(r"%zmm\d|%k[0-7]\b|\{%k")


def main(program: str) -> int:
    disassembly = subprocess.Popen(
        ["objdump", "--disassemble", "--no-show-raw-insn", "--no-addresses", "--demangle", program], stdout=subprocess.PIPE, text=True, errors="replace"
    )
    found: collections.Counter[str] = collections.Counter()
    functions, function = 0, "?"
    for line in disassembly.stdout:
        if FUNCTION.match(line):
            function = line.strip().removesuffix(":")
            functions += 1
        elif WIDE.search(line):
            found[function] += 1
    if disassembly.wait() != 0 or functions < 1000:
        print(f"instructions: {program} could not be read, or has no symbols ({functions} functions)", file=sys.stderr)
        return 2
    unchosen = {name: count for name, count in found.items() if not any(re.search(chosen, name) for chosen in CHOSEN.values())}
    print(f"instructions: {functions} functions, AVX-512 in {len(found)} of them, of which {len(found) - len(unchosen)} are chosen at run time")
    for name, count in sorted(unchosen.items()):
        print(f"instructions: {count} in {name}, which nothing is known to choose at run time", file=sys.stderr)
    return 1 if unchosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
