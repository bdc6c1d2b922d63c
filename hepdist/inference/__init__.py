"""From a trained run to answers about new studies: read as ingest reads, brought to the form the model was trained on, and back."""
