"""ECG bytes in; findings in words, heart rate, signal quality and alerts out."""
