//! The published vectors: FastCDC's stand beside the API's declarations (`fastcdc2020_test_vectors.txt`, seed 0), RepMaxCDC's were made with
//! its reference implementation and are in the tests of its clients. All are of one picture.

use std::fmt::Write as _;

use cask_chunking::{Chunker, Cutter, FastCdc, RepMaxCdc};
use sha2::{Digest, Sha256};

const PICTURE: &[u8] = include_bytes!("data/SekienAkashita.jpg");

const FAST_CDC_16_KIB: [(usize, &str); 6] = [
    (19186, "0f9efa589121d5d9e9e2c4ace91337d77cae866537143f6f15a0ffd525a77c2d"),
    (19279, "c7c86a165573c16448cda35c9169742e85645af42be22889f8b96b8ee0ec7cb0"),
    (17354, "bc88521e28a8b4479cdea5f75aa721a24f3a0a7d0be903aa6d505c574e51e89d"),
    (16387, "4b8dac2652e4685c629d2bb1ae9d4448e676b86f2e67ca0b2fff3d9580184b79"),
    (19940, "c0a7062da6f2386c28e086ee0cedd5732252741269838773cff1ddb05b2df6ed"),
    (17320, "7fa5b12134dc75cd2ac8dc60d3a8f3c8d22f0ee9d4cf74a4aa937e2a0d2d79a5"),
];

const REP_MAX_CDC_4_KIB: [(usize, &str); 19] = [
    (7026, "3c386537b8c3200dd2ab6623f6096a576d07844a4a0d5d2994d13e24887dae46"),
    (5198, "cc7fb08694b471e3ba660b700b347775d1e7a55db8f308c176e2eb6776b5222c"),
    (5310, "096a3e0e42f0a8b7a5a3a337e9b5b4c7fc59abcd6f69486fb68fe4c5c156300f"),
    (4271, "3f4a0b00f9a04959806c9ce9e530fa5d761930ef6c8477117b58eb93196342e8"),
    (5278, "d0c2f82664d8887bd2d289a75baea1d5688e6ee586f8767149bfef9c6df8fe63"),
    (5588, "558e6b58c659f7463c846a0d18c155a86520d1ca69102f102635c08e8b0897e2"),
    (5017, "c3c66478eb8e1632768e6e13dc31e492ac78befca38e9db85525b4b274c5b5d7"),
    (6761, "a5ce22ca3a02323451ddca6db5319c26b5fc1abc5621a033c98cd3de154cd29d"),
    (5541, "ec4752962eda083bf78b24cb087e07451ced85d8c0d719f32c474f7dae8fd764"),
    (7612, "3d9e8dc0a5f14dee7db5eabf99bb636352081423f122a84fdb160cecc2ad01bb"),
    (5501, "f8c747a292f7fd6433945356ee314b978b423ac4c3d248c8fdf36c0693eb6006"),
    (4695, "71249e1031dc237ab6393381a30a10ef90d9a93f532c135b11cc0df60a767b5f"),
    (4362, "95c42ec307be0ce1efde6de814c668f05a31887fde9501b478faca225cf9b8c7"),
    (6221, "8869f4871a0f3fb63775e0fb7f10e170a59b71a6fa0a91a18fa3cf5fff987eba"),
    (7190, "d2f91644457863f716071e76e9b1046408820aa95b36471d5e70ee5c91b611a2"),
    (5858, "3507024624db4ff48ee546e984d7c60461d6a526aba7e4aa33833b162785e79e"),
    (4382, "9b19e98bc5d9b6f486c7c7281fd61044b8e5333363048b20ce3dcb2ee0172980"),
    (8022, "e56dbfa2a82695fed3c565857dbc644af91c983b55c13fe20d9e03bb89e009e2"),
    (5633, "7d76fde9af9a911c4e580db9227e5109c5de28101f3f26637c527e80215aad38"),
];

const REP_MAX_CDC_8_KIB_NO_HORIZON: [(usize, &str); 13] = [
    (8192, "716c5e702f4bee5f18426da9e9eb77d22aa936486741768b86fff472bc18c363"),
    (8192, "33df8556634b77338abee984190d1aa21efb10411edeae3820fd61a93e489f58"),
    (8192, "a05018146657a5c999868a9e3f6e94da715c519f929005ca50404eb5a30caf1f"),
    (8192, "e124b2b4e8847def80e1b8da2fbfa5b483c3bcab6cf2d88e50d598d6c2d2e65c"),
    (8192, "7855d8367f097e33d0d3afbdba0e17749309a0dfb48f3d373bdf94b9b8f378e1"),
    (8192, "782a8f7b5367f177b94da16dc14026a3af3dcfc25b6b53f2060eafee0bc16922"),
    (8192, "3be28a5d9d67d5f8f9b30fbe742406cfefb46c139b48a47eeb98837fbb55128b"),
    (8192, "e6d7615aeefa30776bd0de14ad0e9ac5a738a767c63aa8c3310aa85c49d16d44"),
    (8192, "316e9ca063049a490d8f8431f109f2eaf0bf74739b4c3f4be9da46144733c327"),
    (8192, "2b4a043bd77df955a9fa30358597a90bca046474917e91d3715205f9d674a3bf"),
    (8192, "78abb22658ea5642440139f1bf86382d4bca2d33858fd8e15a170f1c1ac19651"),
    (8192, "076758af278b0fb9fd0313db8f6b796639c23241e2c8d831503e272e069d9aea"),
    (11162, "e776b8d90b880e10e4fdc4f99ba3b0bfbe471f26362007a1775d4cab46a539c7"),
];

fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn check(chunker: &Chunker, expected: &[(usize, &str)]) {
    // In one piece and in pieces of an odd size.
    for piece_bytes in [PICTURE.len(), 977] {
        let mut cutter = Cutter::new(chunker.clone(), PICTURE.len() as u64);
        let mut found = Vec::new();
        for piece in PICTURE.chunks(piece_bytes) {
            let mut rest = piece;
            while !rest.is_empty() {
                rest = &rest[cutter.feed(rest)..];
                while let Some(chunk) = cutter.next_chunk() {
                    found.push((chunk.len(), sha256(chunk)));
                }
            }
        }
        cutter.end();
        while let Some(chunk) = cutter.next_chunk() {
            found.push((chunk.len(), sha256(chunk)));
        }
        let found: Vec<(usize, &str)> = found.iter().map(|(length, hash)| (*length, hash.as_str())).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn the_picture_is_the_one_of_the_vectors() {
    assert_eq!(sha256(PICTURE), "d9e749d9367fc908876749d6502eb212fee88c9a94892fb07da5ef3ba8bc39ed");
}

#[test]
fn fast_cdc_cuts_as_the_vectors_do() {
    check(&Chunker::FastCdc(FastCdc::new(16 * 1024)), &FAST_CDC_16_KIB);
}

#[test]
fn rep_max_cdc_cuts_as_the_vectors_do() {
    check(&Chunker::RepMaxCdc(RepMaxCdc::new(4096, 32 * 1024)), &REP_MAX_CDC_4_KIB);
    check(&Chunker::RepMaxCdc(RepMaxCdc::new(8192, 0)), &REP_MAX_CDC_8_KIB_NO_HORIZON);
}
