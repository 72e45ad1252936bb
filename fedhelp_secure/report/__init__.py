"""The report a federation leaves: JSON and self-contained HTML; needs the extra `report`."""
