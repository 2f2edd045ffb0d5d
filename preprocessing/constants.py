"""The log-mel spectrogram's numbers, where code without torch reads them too: those of the DCLS-Audio reference."""

SAMPLE_RATE = 32_000  # Hz
N_FFT = 1024  # samples: a Hann window of 32 ms
HOP = SAMPLE_RATE // 100  # samples: 100 frames a second
N_MELS = 128  # HTK bands without area normalisation
F_MIN, F_MAX = 50, 14_000  # Hz
POWER_FLOOR = 1e-10  # -100 dB
MEAN, STD = -18.2696, 30.5735  # dB, over AudioSet's balanced train set
