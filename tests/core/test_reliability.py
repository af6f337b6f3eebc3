"""Which test stands for which fault case: every case has one, and every test named here exists."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUN = "core/run/"
FAULTS = RUN + "command/test_faults.py::"
SERVER = "language/server/test_http.py::"
ROWS: dict[str, list[str]] = {
    "1 kill -9 while saving": [
        "core/test_sealed.py::test_kill_9_while_writing_leaves_a_whole_folder",
        RUN + "train/test_signals.py::test_kill_9_at_random_moments_20_times_for_every_toy",
        "core/test_sealed.py::test_sweep_removes_what_killed_writers_left_and_puts_a_retired_folder_back",
    ],
    "2 kill -9, then resume": [
        RUN + "train/test_signals.py::test_kill_9_at_random_moments_then_resume_equals_unbroken",
        RUN + "train/test_trainer.py::test_killed_and_resumed_anywhere_equals_uninterrupted",
    ],
    "3 SIGTERM and Ctrl-C": [RUN + "train/test_signals.py::test_signal_finishes_the_step_saves_and_resumes_exactly"],
    "4 disk full": [
        RUN
        + "command/test_commands.py::test_full_disk_at_a_checkpoint_names_the_path_and_the_run_continues_from_the_one_before",
        "core/test_sealed.py::test_full_disk_names_path_and_bytes_and_keeps_the_old_folder",
        RUN + "train/test_rundir.py::test_full_disk_is_an_error_that_names_the_file_and_keeps_the_status",
    ],
    "5 truncated, flipped or empty file": [
        "core/test_sealed.py::test_damaged_file_is_refused_with_file_expected_and_found",
        "core/test_artifact.py::test_damaged_artifact_is_refused",
        RUN + "train/test_trainer.py::test_damaged_checkpoint_is_an_error_that_names_the_older_one",
    ],
    "6 pickle in place of safetensors": [
        "core/test_sealed.py::test_pickles_are_never_opened",
        "core/test_artifact.py::test_pickle_in_place_of_the_weights_is_refused",
    ],
    "7 malicious config": [
        "core/test_attacks.py::test_crafted_card_is_refused_and_runs_nothing",
        "core/test_sealed.py::test_names_that_leave_the_folder_are_refused",
        "core/test_sealed.py::test_hostile_json_is_refused",
        "core/run/declare/test_registry.py::test_dotted_and_outside_names_are_only_looked_up",
        RUN + "report/test_page.py::test_hostile_names_are_text_and_nothing_else",
    ],
    "8 typo": [
        "core/run/declare/test_options.py::test_typo_names_the_nearest_option",
        RUN + "command/test_commands.py::test_mistakes_are_one_line_and_write_nothing",
    ],
    "9 contradictory or out of range": [
        RUN + "command/test_commands.py::test_all_wrong_options_are_listed_at_once",
        "core/run/declare/test_options.py::test_values_out_of_range_or_contradictory_are_refused",
    ],
    "10 another backbone of equal shapes": [
        "core/test_artifact.py::test_other_seed_of_the_backbone_is_refused_and_an_override_is_noted",
        RUN + "command/test_commands.py::test_init_from_another_backbone_is_refused_unless_allowed_and_then_recorded",
    ],
    "11 another class list or preprocessing": [
        "core/test_artifact.py::test_other_preprocessing_is_refused",
        RUN + "command/test_commands.py::test_a_foreign_class_in_the_evaluation_data_is_refused_by_name",
        RUN + "data/test_sampling.py::test_with_classes_translates_indices_by_name",
    ],
    "12 older format": [
        "core/test_golden.py::test_artifact_of_a_format_with_another_spelling_is_migrated_and_stays_as_it_is",
        "core/test_golden.py::test_golden_artifact_gives_its_outputs",
    ],
    "13 newer format": ["core/test_artifact.py::test_newer_format_is_refused_with_both_versions"],
    "14 NaN loss": [
        RUN + "train/test_trainer.py::test_non_finite_loss_names_the_samples_and_keeps_the_checkpoint",
        RUN + "command/test_commands.py::test_non_finite_sample_is_named_the_run_fails_and_the_page_can_be_made",
        RUN + "train/test_distributed.py::test_non_finite_loss_stops_both_and_names_the_samples_of_both",
    ],
    "15 NaN in a prompt file": ["core/test_artifact.py::test_non_finite_prompt_is_refused_at_save_and_at_load"],
    "16 one bad sample": [
        RUN + "command/test_commands.py::test_non_finite_sample_is_named_the_run_fails_and_the_page_can_be_made"
    ],
    "17 longer than the position limit": [
        "core/bridges/test_transformers.py::test_lengths_beyond_the_context_window_are_named",
        "language/methods/test_cpt.py::test_a_context_beyond_the_window_names_both_lengths",
        "language/server/test_prompts.py::test_limits_name_the_numbers",
    ],
    "18 padded and ragged batches": [
        "core/kernels/test_prompt_attention.py::test_the_split_agrees_with_the_reference",
        "core/test_conformance.py::test_a_sound_method_passes",
    ],
    "19 unknown name in a mixed batch": [
        RUN + "command/test_commands.py::test_several_runs_share_a_backbone_in_one_batch",
        "core/test_prompts.py::test_bank_refuses_unknown_names_unequal_shapes_and_nothing",
    ],
    "20 trainable backbone": [
        "core/test_backbone.py::test_nothing_makes_the_backbone_trainable_or_puts_it_in_training_mode",
        "core/test_conformance.py::test_a_broken_method_fails_its_check",
    ],
    "21 out of memory": [
        RUN + "command/test_commands.py::test_out_of_memory_names_the_knobs_and_the_run_can_be_resumed_smaller",
    ],
    "22 world size changes, one process dies": [
        RUN + "train/test_distributed.py::test_resume_with_another_number_of_processes_is_refused",
        RUN + "train/test_launch.py::test_death_of_one_process_ends_all_and_the_run_resumes",
    ],
    "23 two runs in one folder": [
        RUN + "train/test_rundir.py::test_second_process_is_refused_with_pid_until_the_first_is_gone",
        RUN + "command/test_commands.py::test_used_folders_are_refused",
    ],
    "24 read-only, missing, a file": [
        RUN + "train/test_rundir.py::test_path_that_is_a_file_is_refused",
        RUN + "train/test_rundir.py::test_file_system_that_refuses_folders_is_an_error_at_the_start",
        RUN + "train/test_rundir.py::test_read_only_folder_is_refused",
    ],
    "25 missing optional dependency": [
        "core/run/declare/test_registry.py::test_missing_extra_names_the_install_command",
        RUN + "use/test_export.py::test_onnx_without_its_libraries_names_the_command",
        RUN + "command/test_commands.py::test_mistakes_are_one_line_and_write_nothing",
    ],
    "26 offline": [
        RUN + "command/test_commands.py::test_no_network_is_needed",
        RUN + "command/test_with_vision.py::test_run_needs_no_network",
    ],
    "27 upstream change": [
        "core/bridges/test_transformers.py::test_steps_with_a_cache_equal_full_forward_passes",
        "vision/adapters/test_swin.py::test_without_edits_it_is_timm",
        "vision/adapters/test_vit.py::test_without_edits_it_is_timm",
    ],
    "28 fp16 overflow, bf16 prompt": [
        RUN + "train/test_trainer.py::test_overflowing_steps_are_skipped_counted_and_finally_an_error",
        RUN + "train/test_trainer.py::test_loss_scaling_resumes_exactly",
        RUN + "command/test_commands.py::test_fp16_on_the_cpu_is_refused_before_anything_is_written",
        RUN + "command/test_commands.py::test_bf16_trains_and_keeps_the_tuned_tensors_in_fp32",
    ],
    "29 torch.compile": [
        RUN + "command/test_commands.py::test_a_compiled_forward_gives_the_same_outputs_and_gradients",
        RUN + "command/test_with_vision.py::test_compiled_forward_has_equal_outputs_and_gradients",
    ],
    "30 seeds": [
        RUN + "command/test_commands.py::test_equal_seeds_give_equal_bytes_and_other_seeds_other_prompts",
        RUN + "command/test_commands.py::test_the_users_generators_are_left_alone",
    ],
    "31 more classes than the head": [RUN + "tasks/test_classification.py::test_data_that_do_not_fit_are_refused"],
    "32 the caller's tensors": [
        RUN + "command/test_commands.py::test_the_callers_tensors_are_not_changed",
        "core/kernels/test_prompt_attention.py::test_the_callers_tensors_stay_as_they_were",
    ],
    "33 stopped while report or predictions are written": [
        FAULTS
        + "test_a_run_that_is_stopped_while_its_report_is_written_is_not_finished_and_resume_writes_what_is_missing",
    ],
    "34 checkpoint of another run, changed options, no optimiser state": [
        FAULTS + "test_a_checkpoint_of_another_run_is_refused_naming_what_differs",
        FAULTS + "test_changed_options_are_refused_and_the_old_ones_continue",
        FAULTS + "test_a_checkpoint_without_optimiser_state_is_refused",
    ],
    "35 refused after the folder was made": [
        RUN + "command/test_second_floor.py::test_a_refused_run_leaves_the_folder_free",
    ],
    "36 info on damaged artifacts": [FAULTS + "test_info_says_what_is_damaged"],
    "37 header-only tables, foreign lines, renamed roles, negative steps, absurd counts": [
        FAULTS + "test_a_table_of_its_header_only_is_refused",
        FAULTS + "test_foreign_lines_of_metrics_are_passed_over",
        FAULTS + "test_renamed_roles_are_told",
        FAULTS + "test_positions_that_make_no_sense_are_refused",
        FAULTS + "test_steps_and_counts_that_make_no_sense",
        "workspace/test_crafted.py::test_a_card_that_asks_for_too_much",
        "core/test_bounded.py::test_what_takes_too_many_calls_is_stopped_on_any_device",
    ],
    "38 requests that cannot fit, half-sent bodies, thousands of rows, lone surrogates": [
        SERVER + "test_bad_values_are_400",
        SERVER + "test_a_body_that_never_ends_is_408",
        SERVER + "test_nothing_is_made_of_more_rows_than_can_wait",
        SERVER + "test_halves_of_characters_are_400",
    ],
    "39 a process of several is killed": [
        RUN + "train/test_distributed.py::test_what_is_left_of_a_run_says_in_one_line_that_a_process_is_gone",
        RUN + "train/test_distributed.py::test_death_of_one_process_ends_the_other_and_the_run_resumes_exactly",
    ],
    "40 truncated audio, official lists, columns that sort wrongly, empty labels": [
        "audio/data/test_sound.py::test_a_truncated_file_is_not_taken_for_a_shorter_one",
        "audio/data/test_load.py::test_official_lists_of_parts_are_not_passed_over",
        "timeseries/data/test_times.py::test_times_are_parsed_whatever_the_order_of_rows",
        "vision/data/test_readers.py::test_rows_without_label_or_image_are_listed",
    ],
    "41 equal weights in another network": [
        "core/test_behaviour.py::test_another_network_of_equal_weights_is_told_apart",
        "core/test_behaviour.py::test_networks_in_narrow_dtypes_are_told_apart_as_in_float32",
    ],
}
"""Case 42, generated code that is run, belongs to the room `study`, which is not built."""


@cache
def names_in(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_all_41_cases_are_listed():
    assert [int(row.split()[0]) for row in ROWS] == list(range(1, 42))
    assert all(ROWS.values())


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_a_case_exist(row):
    for test in ROWS[row]:
        path, _, name = test.partition("::")
        assert name in names_in(path), test
