// Made by tests/test_dashboard_types.py.
export interface AdviceOut {
  cost?: number;
  data_version: number;
  gain?: number;
  parameters?: Record<string, string | boolean | number | (number)[]>;
  pays?: boolean;
  why: string;
}
export interface BelievedAnswer {
  answer: string;
  probability: number;
}
export interface BudgetSpec {
  cost?: number;
  trials?: number;
}
export interface ColumnsOut {
  columns: Record<string, (string | boolean | number | null)[]>;
  numbers: (number)[];
  total: number;
}
export interface ConservativeSpec {
  baseline: Record<string, string | boolean | number | (number)[]>;
  margin: number;
  probability: number;
}
export interface ConstraintOut {
  bound: number;
  metric: string;
  numbers: (number)[];
  share?: number;
  text: string;
  upper: boolean;
  values: (number)[];
}
export interface CostSpec {
  metric?: string;
  price: number;
}
export interface EarlyStoppingSpec {
  bound?: number;
  percentile?: number;
  policy: "median" | "percentile" | "threshold" | "gain";
  price?: number;
  probability?: number;
  steps?: number;
  warmup_steps?: number;
  warmup_trials?: number;
}
export interface FidelityOut {
  cost: string;
  levels: Record<string, (string | boolean | number | null)[]>;
  numbers: (number)[];
  spent: number;
  target: Record<string, string | boolean | number | (number)[]>;
  values: (number)[];
}
export interface FidelitySpec {
  cost?: string;
  metric?: string;
  target: Record<string, string | boolean | number | (number)[]>;
}
export interface GainsOut {
  costs: (number | null)[];
  gains: (number | null)[];
  numbers: (number)[];
}
export interface GlobalStoppingSpec {
  bar: number;
  min_trials: number;
  name: "improvement";
  while_running: boolean;
  window: number;
}
export interface HypervolumeOut {
  numbers: (number)[];
  reference: Record<string, number>;
  values: (number)[];
}
export interface ModelSpec {
  outliers: boolean;
  prior: string;
  warping: boolean;
}
export interface ObjectiveSpec {
  direction: "minimize" | "maximize";
  metric: string;
  reference_point?: number;
}
export interface Overview {
  active_at: string;
  constraints: (ConstraintOut)[];
  fidelity?: FidelityOut;
  front?: ColumnsOut;
  gains: GainsOut;
  hypervolume?: HypervolumeOut;
  methods: Record<string, number>;
  parallel: ColumnsOut;
  pictured: (PicturedOut)[];
  progress: (ProgressOut)[];
  recommended?: RecommendedOut;
  reports: boolean;
  running: (RunningOut)[];
  schedules: (SchedulesOut)[];
  sequence: number;
  stop?: StopOut;
  study: StudyOut;
  used: number;
}
export interface ParameterSpec {
  active_if?: string;
  choices?: (string | boolean | number)[];
  gap?: number;
  high?: number;
  integer?: boolean;
  k?: number;
  log?: boolean;
  low?: number;
  name: string;
  points?: number;
  step?: number;
  type: "float" | "int" | "categorical" | "ordinal" | "bool" | "constant" | "time_steps";
  value?: string | boolean | number;
}
export interface PicturedOut {
  images: (string)[];
  number: number;
  value?: number;
}
export interface ProgressOut {
  best_numbers: (number)[];
  best_values: (number)[];
  direction: "minimize" | "maximize";
  feasible: (boolean)[];
  metric: string;
  numbers: (number)[];
  total: number;
  values: (number)[];
}
export interface PromptLine {
  agreement?: number;
  confidence?: number;
  prompt: string;
  reason?: string;
  samples: number;
  tokens: number;
}
export interface RecommendedOut {
  current: boolean;
  mean?: number;
  number: number;
  sd?: number;
  value?: number;
  why: string;
}
export interface ReplayOut {
  drawn: number;
  max_samples: number;
  rule: string;
  steps: (ReplayStep)[];
  title: string;
}
export interface ReplayStep {
  answer?: string;
  confidence: number;
  cost?: number;
  draw?: number;
  gain?: number;
  none: number;
  pick?: string;
  posterior: (BelievedAnswer)[];
  score?: number;
  stop?: StopOut;
  tokens?: number;
}
export interface RunningOut {
  number: number;
  started_at?: string;
  worker?: string;
}
export interface SamplingLine {
  confidence?: number;
  created_at: string;
  fixed_samples: number;
  fixed_tokens: number;
  id: string;
  max_samples: number;
  open: number;
  prompts: number;
  reasons: Record<string, number>;
  rule: string;
  samples: number;
  tokens: number;
  updated_at: string;
}
export interface SamplingLines {
  next_cursor?: string;
  samplings: (SamplingLine)[];
  total: SavedOut;
}
export interface SamplingView {
  labels: number;
  line: SamplingLine;
  metadata: Record<string, any>;
  prompts: (PromptLine)[];
}
export interface SavedOut {
  confidence?: number;
  fixed_samples: number;
  fixed_tokens: number;
  prompts: number;
  reasons: Record<string, number>;
  samples: number;
  tokens: number;
}
export interface ScheduleOut {
  number: number;
  steps: (number)[];
  value: number;
}
export interface SchedulesOut {
  known: Record<string, (number)[]>;
  parameter: string;
  trials: (ScheduleOut)[];
}
export interface StopOut {
  cost?: number;
  gain?: number;
  message: string;
  reason: string;
}
export interface StudyLine {
  active_at: string;
  best?: number;
  budget?: number;
  created_at: string;
  direction: "minimize" | "maximize";
  metric: string;
  name: string;
  objectives: number;
  spark: (number)[];
  state: "ACTIVE" | "STOPPED";
  trials: Record<string, number>;
}
export interface StudyLines {
  next_cursor?: string;
  studies: (StudyLine)[];
}
export interface StudyOut {
  acquisition: string | Record<string, string | number>;
  budget: BudgetSpec;
  conservative?: ConservativeSpec;
  context: (string)[];
  cost?: CostSpec;
  created_at: string;
  data_version: number;
  earlier: (string)[];
  early_stopping?: EarlyStoppingSpec;
  engine: "suffice" | "ax";
  environment?: Record<string, "uniform" | Record<string, (string | boolean | number)[]>> | (Record<string, string | boolean | number | (number)[]>)[];
  fidelity?: FidelitySpec;
  global_stopping?: GlobalStoppingSpec;
  lease_seconds: number;
  max_retries: number;
  metadata: Record<string, any>;
  model?: ModelSpec;
  name: string;
  noise: "auto" | "none" | number;
  objectives: (ObjectiveSpec)[];
  outcome_constraints: (string)[];
  parameter_constraints: (string)[];
  parameters: (ParameterSpec)[];
  risk?: "expectation" | Record<string, number>;
  seed: number;
  state: "ACTIVE" | "STOPPED";
  trials: Record<string, number>;
  updated_at: string;
}
export interface TrialLine {
  created_at: string;
  finished_at?: string;
  gain?: number;
  method: string;
  number: number;
  parameters: Record<string, string | boolean | number | (number)[]>;
  reason?: string;
  seconds?: number;
  state: string;
  stderrs: Record<string, number>;
  values: Record<string, number>;
  worker?: string;
}
export interface TrialLines {
  matching: number;
  total: number;
  trials: (TrialLine)[];
}
