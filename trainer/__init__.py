"""ECG-report pairs in; a trained ECG encoder tied to clinical language out."""
