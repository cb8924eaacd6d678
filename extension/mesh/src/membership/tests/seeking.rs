//! Who looks for others although it misses nobody.

use super::*;

#[test]
fn a_network_in_which_nobody_is_missing_asks_now_and_then_whether_there_is_anybody_else() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    let mut asked = 0;
    for seconds in (8..3600).step_by(2) {
        for member in [&mut first, &mut second] {
            member.handle_timeout(at(seconds));
            let hellos = outputs(member).into_iter().filter(|output| match output {
                Output::Hello { to, .. } => to.contains(&Destination::Lan),
                _ => false,
            });
            asked += hellos.count();
        }
        talk(&mut first, &mut second, at(seconds));
    }
    // Every two minutes one of the two, on the average.
    assert!((10..60).contains(&asked), "{asked}");
}
