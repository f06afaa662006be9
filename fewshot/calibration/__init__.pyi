from .fitting import CalibrationSet as CalibrationSet
from .fitting import fit_calibration as fit_calibration
from .query_calibration import calibration_numbers as calibration_numbers
from .reliability import Reliability as Reliability
from .reliability import measure_reliability as measure_reliability
from .table_files import CalibrationTable as CalibrationTable
from .table_files import read_calibration as read_calibration
from .table_files import shipped_calibration as shipped_calibration
from .table_files import write_calibration as write_calibration
from .task_features import FEATURES as FEATURES
from .task_features import SHOTS_RANGE as SHOTS_RANGE
from .task_features import WAYS_RANGE as WAYS_RANGE
from .task_features import TaskFeatures as TaskFeatures
from .temperature import CalibrationParams as CalibrationParams
from .temperature import calibrated_probabilities as calibrated_probabilities
from .temperature import log_vote_shares as log_vote_shares
from .temperature import margins as margins
from .temperature import support_margin as support_margin

__all__: list[str]
