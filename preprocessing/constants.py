"""What code without torch reads too: the log-mel spectrogram's numbers, those of the DCLS-Audio reference; suffixes."""

SAMPLE_RATE = 32_000  # Hz
N_FFT = 1024  # samples: a Hann window of 32 ms
HOP = SAMPLE_RATE // 100  # samples: 100 frames a second
N_MELS = 128  # HTK bands without area normalisation
F_MIN, F_MAX = 50, 14_000  # Hz
POWER_FLOOR = 1e-10  # -100 dB
MEAN, STD = -18.2696, 30.5735  # dB, over AudioSet's balanced train set

# What folders and globs are searched for; a file that is named is tried whatever its suffix.
AUDIO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("wav", "wave", "flac", "mp3", "ogg", "oga", "opus", "m4a", "mp4", "aac", "aif", "aiff", "aifc", "au", "caf"),
        *("voc", "w64", "rf64", "wma", "webm", "mka", "mkv", "mov", "3gp", "amr", "ac3", "avi"),
    )
)
