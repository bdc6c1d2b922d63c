"""LOINC codes of the common liver labs and vital signs, and what hepdist calls them; data only, any other code keeps its number.

Codes and names are LOINC's (loinc.org, used under its licence). The mass and the substance code of one analyte are one column.
"""

from __future__ import annotations

LOINC = {
    "1975-2": "bilirubin_total", "14631-6": "bilirubin_total", "1968-7": "bilirubin_direct", "14629-0": "bilirubin_direct",
    "1971-1": "bilirubin_indirect", "14630-8": "bilirubin_indirect",
    "1742-6": "alt", "1743-4": "alt", "1744-2": "alt", "1920-8": "ast", "30239-8": "ast", "6768-6": "alp", "2324-2": "ggt",
    "2532-0": "ldh", "14804-9": "ldh", "1751-7": "albumin", "61151-7": "albumin", "61152-5": "albumin", "2885-2": "protein_total",
    "2160-0": "creatinine", "14682-9": "creatinine", "3094-0": "urea_nitrogen", "14937-7": "urea_nitrogen", "3091-6": "urea",
    "22664-7": "urea", "3084-1": "uric_acid", "14933-6": "uric_acid", "2345-7": "glucose", "14749-6": "glucose",
    "2093-3": "cholesterol", "14647-2": "cholesterol", "2571-8": "triglycerides", "14927-8": "triglycerides", "16362-6": "ammonia",
    "2498-4": "iron", "14798-3": "iron", "2276-4": "ferritin", "1988-5": "crp", "1834-1": "afp", "53962-7": "afp",
    "777-3": "platelets", "26515-7": "platelets", "6690-2": "leukocytes", "26464-8": "leukocytes", "718-7": "haemoglobin",
    "6301-6": "inr", "34714-6": "inr", "5902-2": "prothrombin_time", "5964-2": "prothrombin_time",
    "2951-2": "sodium", "2823-3": "potassium", "5195-3": "hbsag", "16128-1": "hcv_antibody",
    "8480-6": "systolic_pressure", "8462-4": "diastolic_pressure", "8867-4": "heart_rate", "8310-5": "temperature",
    "8302-2": "height", "29463-7": "weight", "39156-5": "bmi",
}  # fmt: skip

UNITS = {
    "inr": "", "prothrombin_time": "s", "sodium": "mmol/L", "potassium": "mmol/L", "systolic_pressure": "mm[Hg]",
    "diastolic_pressure": "mm[Hg]", "heart_rate": "/min", "temperature": "Cel", "height": "cm", "weight": "kg", "bmi": "kg/m2",
}  # fmt: skip
"""UCUM unit of those names that hepdist.ingest.emr_units has no analyte of."""
